package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestMain is also the child process of TestKill and TestProxyFromEnvironment.
func TestMain(m *testing.M) {
	if url := os.Getenv("FETCH_TEST_URL"); url != "" {
		opt := quick(os.Getenv("FETCH_TEST_DIR"))
		opt.Proxy = os.Getenv("FETCH_TEST_PROXY")
		_, _, err := Fetch(context.Background(), Source{URL: url, Size: fileSize}, opt)
		if err == nil {
			os.Exit(0)
		}
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestKill kills a downloading process with SIGKILL at several points, twice
// in a row, and holds that no byte that it had stored is fetched again.
func TestKill(t *testing.T) {
	file := content(fileSize, 1)
	for _, percent := range []int{1, 30, 50, 95} {
		t.Run(fmt.Sprintf("%d %%", percent), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) {
				if n > 2 {
					serve(w, r, file)
					return
				}
				// A part of what is asked for, then silence, in which the kill comes.
				w.Header().Set("ETag", `"`+sum(file)[:16]+`"`)
				rest := file[offset(r):]
				w = &silence{ResponseWriter: w, r: r, left: len(rest) * percent / 100}
				http.ServeContent(w, r, "", old, bytes.NewReader(file))
			})
			dir := spoolDir(t)
			part := partOf(t, dir, s.URL+"/x")
			var stored int64
			for range 2 {
				want := stored + (fileSize-stored)*int64(percent)/100
				stored = killChild(t, s.URL+"/x", dir, part, want)
			}
			opt := quick(dir)
			f, st, err := Fetch(t.Context(), Source{URL: s.URL + "/x", Size: fileSize}, opt)
			if err != nil {
				t.Fatal(err)
			}
			mustHave(t, f, file)
			if want := fileSize - stored + headSize; stored < headSize || st.Resumed != stored || st.Fetched != want {
				t.Errorf("resumed %d and fetched %d bytes, want %d and %d, the head to compare", st.Resumed, st.Fetched, stored, want)
			}
		})
	}
}

// silence passes left bytes on and then blocks until the client is gone.
type silence struct {
	http.ResponseWriter
	r    *http.Request
	left int
}

func (s *silence) Write(p []byte) (int, error) {
	n := min(len(p), s.left)
	s.left -= n
	s.ResponseWriter.Write(p[:n])
	if n < len(p) {
		hang(s.ResponseWriter, s.r)
		return n, errors.New("gone")
	}
	return n, nil
}

// killChild starts a download in a child process, kills it when want bytes are
// in the partial file, and returns the length of that.
func killChild(t *testing.T, url, dir, part string, want int64) int64 {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "FETCH_TEST_URL="+url, "FETCH_TEST_DIR="+dir)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	length := int64(-1)
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if fi, err := os.Stat(part); err == nil {
			if length = fi.Size(); length >= want {
				cmd.Process.Kill()
				cmd.Wait()
				fi, err := os.Stat(part)
				if err != nil {
					t.Fatal(err)
				}
				return fi.Size()
			}
		}
	}
	t.Fatalf("the partial file has %d bytes after 20 s, want %d; the child says:\n%s", length, want, output.Bytes())
	return 0
}
