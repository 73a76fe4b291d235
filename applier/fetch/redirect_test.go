package fetch

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func redirect(w http.ResponseWriter, to string, code int) {
	w.Header().Set("Location", to)
	w.WriteHeader(code)
}

// A redirectBehaviour is a way of a server to send us elsewhere.
type redirectBehaviour struct {
	name   string
	path   string
	handle handler
	gets   string // "": the file; else a part of the error's text
}

func redirectBehaviours(file []byte) []redirectBehaviour {
	hop := func(w http.ResponseWriter, r *http.Request, n int) {
		var left int
		if _, err := fmt.Sscanf(r.URL.Path, "/hop/%d", &left); err == nil && left > 0 {
			redirect(w, fmt.Sprintf("/hop/%d?secret=2", left-1), []int{301, 302, 303, 307, 308}[left%5])
			return
		}
		serve(w, r, file)
	}
	to := func(location string) handler {
		return func(w http.ResponseWriter, r *http.Request, n int) { redirect(w, location, 302) }
	}
	return []redirectBehaviour{
		{"five hops", "/hop/5", hop, ""},
		{"six hops", "/hop/6", hop, "more than 5 redirects"},
		{"a loop", "/x", to("/x"), "more than 5 redirects"},
		{"to a file", "/x", to("file:///etc/passwd"), `redirect to "file:///etc/passwd", which is neither http nor https`},
		{"to ftp", "/x", to("ftp://host.invalid/x?secret=1"), "neither http nor https"},
		{"to no host", "/x", to("http:///x"), "names no host"},
		{"to a malformed address", "/x", to("http://user:secret@[::1/x?secret"), "failed to parse Location"},
		{"without an address", "/x", func(w http.ResponseWriter, r *http.Request, n int) { w.WriteHeader(302) }, "server answered 302 Found"},
		{"for each try, the rest included", "/hop/1", func(w http.ResponseWriter, r *http.Request, n int) {
			if strings.HasSuffix(r.URL.Path, "/1") {
				redirect(w, "/hop/0", 307)
				return
			}
			serveCut(w, r, file, fileSize/3)
		}, ""},
	}
}

func TestRedirects(t *testing.T) {
	file := content(fileSize, 1)
	for _, row := range redirectBehaviours(file) {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, row.handle)
			f, st, err := Fetch(t.Context(), Source{URL: s.URL + row.path + "?secret=1", Size: fileSize}, quick(spoolDir(t)))
			if row.gets != "" {
				if err == nil {
					t.Fatal("Fetch succeeded")
				}
				checkError(t, err, row.gets, lost, failed)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			mustHave(t, f, file)
			if st.Fetched != fileSize {
				t.Errorf("%d bytes were fetched, want %d", st.Fetched, fileSize)
			}
		})
	}
}

// TestCredentials holds that the credentials of an address reach its own host
// and no other, and that its query is told to no server.
func TestCredentials(t *testing.T) {
	file := content(fileSize, 1)
	other := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) })
	s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) {
		switch r.URL.Path {
		case "/away":
			http.SetCookie(w, &http.Cookie{Name: "session", Value: "1"})
			redirect(w, strings.Replace(other.URL, "http://", "http://eve:evil@", 1)+"/x", 302)
		case "/here":
			http.SetCookie(w, &http.Cookie{Name: "session", Value: "1"})
			redirect(w, "/file", 302)
		default:
			serve(w, r, file)
		}
	})
	withUser := strings.Replace(s.URL, "http://", "http://joe:s%2Fecret@", 1)
	for _, path := range []string{"/file", "/here", "/away"} {
		f, _, err := Fetch(t.Context(), Source{URL: withUser + path + "?token=1", Size: fileSize}, quick(spoolDir(t)))
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	for _, r := range s.asked() {
		if user, password, _ := r.BasicAuth(); user != "joe" || password != "s/ecret" {
			t.Errorf("%s was asked for by %q with password %q", r.URL.Path, user, password)
		}
	}
	if n := len(s.asked()); n != 8 {
		t.Errorf("%d requests, want 8", n)
	}
	for _, r := range append(other.asked(), s.asked()...) {
		if v := r.Header.Get("Referer"); v != "" {
			t.Errorf("Referer %q was sent", v)
		}
	}
	if n := len(other.asked()); n != 2 {
		t.Errorf("%d requests to the other host, want 2", n)
	}
	for _, r := range other.asked() {
		for _, name := range []string{"Authorization", "Proxy-Authorization", "Cookie", "Www-Authenticate"} {
			if v := r.Header.Get(name); v != "" {
				t.Errorf("the other host was sent %s: %s", name, v)
			}
		}
	}
}

// TestRedirectInward holds that a redirect does not lead from the internet
// into the device or its network, by address or by name.
func TestRedirectInward(t *testing.T) {
	real := zoneOf
	t.Cleanup(func() { zoneOf = real })
	zoneOf = func(a netip.Addr) zone {
		switch a {
		case netip.MustParseAddr("127.0.0.2"):
			return zonePublic
		case netip.MustParseAddr("127.0.0.3"):
			return zoneNetwork
		}
		return real(a)
	}
	file := content(1000, 1)
	on := func(ip string, handle handler) *server {
		l, err := net.Listen("tcp", ip+":0")
		if err != nil {
			t.Skipf("no address %s here: %v", ip, err) // only Linux has all of 127/8
		}
		s := &server{}
		s.Server = &httptest.Server{Listener: l, Config: &http.Server{Handler: s.counting(handle)}}
		s.Start()
		t.Cleanup(s.Close)
		return s
	}
	good := func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) }
	servers := map[string]*server{"device": on("127.0.0.1", good), "network": on("127.0.0.3", good), "internet": on("127.0.0.2", good)}
	for _, row := range []struct {
		from, to, gets string
	}{
		{"127.0.0.2", "internet", ""},
		{"127.0.0.2", "network", "redirect from the internet into the local network (127.0.0.3)"},
		{"127.0.0.2", "device", "redirect from the internet into the device itself (127.0.0.1)"},
		{"127.0.0.3", "device", "redirect from the local network into the device itself (127.0.0.1)"},
		{"127.0.0.3", "network", ""},
		{"127.0.0.1", "device", ""},
		{"127.0.0.1", "internet", ""},
	} {
		t.Run(row.from+" to "+row.to, func(t *testing.T) {
			target := servers[row.to]
			before := len(target.asked())
			s := on(row.from, func(w http.ResponseWriter, r *http.Request, n int) { redirect(w, target.URL+"/x", 302) })
			f, _, err := Fetch(t.Context(), Source{URL: s.URL + "/x", Size: 1000}, quick(spoolDir(t)))
			if row.gets == "" {
				if err != nil {
					t.Fatal(err)
				}
				mustHave(t, f, file)
				return
			}
			if err == nil {
				t.Fatal("Fetch succeeded")
			}
			checkError(t, err, row.gets, lost, failed)
			if n := len(target.asked()) - before; n != 0 {
				t.Errorf("%d requests got through", n)
			}
		})
	}
	t.Run("by name", func(t *testing.T) {
		u, _ := url.Parse(servers["device"].URL)
		s := on("127.0.0.2", func(w http.ResponseWriter, r *http.Request, n int) {
			redirect(w, "http://localhost:"+u.Port()+"/x", 302)
		})
		_, _, err := Fetch(t.Context(), Source{URL: s.URL + "/x", Size: 1000}, quick(spoolDir(t)))
		if err == nil {
			t.Fatal("Fetch succeeded")
		}
		checkError(t, err, "into the device itself", lost, failed)
	})
}

// TestRedirectBySecondAddress holds that it is the address that answered which says
// how far in a redirect may lead, not one that its host only claims to have.
func TestRedirectBySecondAddress(t *testing.T) {
	real, resolver := zoneOf, net.DefaultResolver
	t.Cleanup(func() { zoneOf, net.DefaultResolver = real, resolver })
	zoneOf = func(a netip.Addr) zone {
		if a == netip.MustParseAddr("127.0.0.2") {
			return zonePublic
		}
		return real(a)
	}
	inside := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, content(1000, 1)) })
	for _, addrs := range [][]string{{"127.0.0.1", "127.0.0.2"}, {"127.0.0.2", "127.0.0.1"}} {
		// Nothing listens on this port of 127.0.0.1.
		l, err := net.Listen("tcp", "127.0.0.2:0")
		if err != nil {
			t.Fatal(err)
		}
		outside := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			redirect(w, inside.URL+"/x", 302)
		})}}
		outside.Start()
		t.Cleanup(outside.Close)
		_, port, _ := net.SplitHostPort(l.Addr().String())
		net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go answerDNS(theirs, addrs)
			return ours, nil
		}}
		_, _, err = Fetch(t.Context(), Source{URL: "http://two.example:" + port + "/x", Size: 1000}, quick(spoolDir(t)))
		if err == nil {
			t.Fatalf("%v: Fetch succeeded", addrs)
		}
		checkError(t, err, "redirect from the internet into the device itself (127.0.0.1)", lost, failed)
	}
	if n := len(inside.asked()); n > 0 {
		t.Errorf("%d requests got through", n)
	}
}

// answerDNS answers a query for addresses over TCP: addrs, if it is for IPv4.
func answerDNS(conn net.Conn, addrs []string) {
	defer conn.Close()
	q := make([]byte, 512)
	n, err := conn.Read(q)
	for ; err == nil && n < 2+12; n++ {
		_, err = conn.Read(q[n : n+1])
	}
	if err != nil {
		return
	}
	q = q[2:n]
	end := 12
	for q[end] != 0 {
		end += 1 + int(q[end])
	}
	end += 1 + 4 // its type and class
	a := append([]byte{q[0], q[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, q[12:end]...)
	if q[end-3] == 1 { // A
		a[7] = byte(len(addrs))
		for _, addr := range addrs {
			ip := netip.MustParseAddr(addr).As4()
			a = append(append(a, 0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4), ip[:]...)
		}
	}
	conn.Write(append([]byte{byte(len(a) >> 8), byte(len(a))}, a...))
}

func TestZoneOf(t *testing.T) {
	for addr, want := range map[string]zone{
		"127.0.0.1": zoneDevice, "127.8.8.8": zoneDevice, "::1": zoneDevice, "::ffff:127.0.0.1": zoneDevice,
		"0.0.0.0": zoneDevice, "::": zoneDevice, "169.254.169.254": zoneDevice, "::ffff:169.254.169.254": zoneDevice,
		"fe80::1": zoneDevice, "224.0.0.1": zoneDevice,
		"10.0.0.1": zoneNetwork, "172.16.0.1": zoneNetwork, "192.168.1.1": zoneNetwork, "fd00::1": zoneNetwork,
		"8.8.8.8": zonePublic, "172.32.0.1": zonePublic, "2001:4860:4860::8888": zonePublic,
	} {
		if got := zoneOf(netip.MustParseAddr(addr)); got != want {
			t.Errorf("zoneOf(%s) = %v, want %v", addr, got, want)
		}
	}
}
