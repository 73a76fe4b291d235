package agent

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
)

// The agent's file server: bundle x.ota of BundleDir is BundleAt + "/x.ota".
const (
	BundleDir = "/data/bundles"
	BundleAt  = "http://127.0.0.1:8000"
)

// Bundles serves the files of dir over HTTP as a good mirror does: with ranges,
// a length and a strong ETag, so that a download can be resumed.
func Bundles(dir string) http.Handler {
	files := os.DirFS(dir)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := path.Clean("/" + r.URL.Path)[1:]
		f, err := files.Open(name)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		defer f.Close()
		info, err := f.Stat()
		body, ok := f.(io.ReadSeeker)
		if err != nil || !ok || !info.Mode().IsRegular() {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, info.Size(), info.ModTime().UnixNano()))
		http.ServeContent(w, r, name, info.ModTime(), body)
	})
}
