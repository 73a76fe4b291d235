package fetch

import (
	"net/http"
	"testing"
)

// What continues within one call counts as much as what an earlier call left, and
// asking for the head first is no interruption.
func TestResumesAreCounted(t *testing.T) {
	file := content(fileSize, 1)
	for _, row := range []struct {
		name   string
		handle handler
		want   int
	}{
		{"in one go", func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) }, 0},
		{"broken off three times", func(w http.ResponseWriter, r *http.Request, n int) {
			if n <= 3 {
				w = &cutter{ResponseWriter: w, left: len(file) / 5}
			}
			serve(w, r, file)
		}, 3},
		{"refused twice where it broke off", func(w http.ResponseWriter, r *http.Request, n int) {
			switch n {
			case 1:
				w = &cutter{ResponseWriter: w, left: len(file) / 5}
			case 2, 3:
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			serve(w, r, file)
		}, 1},
		{"before the first byte", func(w http.ResponseWriter, r *http.Request, n int) {
			if n == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			serve(w, r, file)
		}, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newServer(t, row.handle)
			f, st, err := Fetch(t.Context(), Source{URL: s.URL + "/x"}, quick(spoolDir(t)))
			if err != nil {
				t.Fatal(err)
			}
			mustHave(t, f, file)
			if st.Resumes != row.want {
				t.Errorf("it continued %d times, want %d (%+v)", st.Resumes, row.want, st)
			}
		})
	}
}
