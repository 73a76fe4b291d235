package agent

import (
	"fmt"
	"io/fs"
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
		info, err := fs.Stat(files, name)
		if err != nil || !info.Mode().IsRegular() {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, info.Size(), info.ModTime().UnixNano()))
		http.ServeFileFS(w, r, files, name)
	})
}
