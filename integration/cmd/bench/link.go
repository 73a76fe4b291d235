package main

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tope-ota/ota/integration/try"
)

// link is a link of a rate and a delay, in front of a server: connections to its
// address are relayed. All share the rate. A new connection waits for its handshake;
// the slow start of TCP is left out.
type link struct {
	net.Listener
	to       string
	rate     int64         // bits a second towards the client; 0: no limit
	trip     time.Duration // there and back
	received atomic.Int64  // bytes, by clients
	mu       sync.Mutex
	free     time.Time // when the link has sent what it was given
}

// newLink starts a link to the server at address to.
func newLink(to string, rate int64, trip time.Duration) *link {
	l := try.Get(net.Listen("tcp", "127.0.0.1:0"))
	k := &link{Listener: l, to: to, rate: rate, trip: trip}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go k.relay(c)
		}
	}()
	return k
}

func (k *link) relay(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", k.to)
	if err != nil {
		return
	}
	defer server.Close()
	time.Sleep(k.trip)
	go func() {
		k.copy(server, client, false)
		server.(*net.TCPConn).CloseWrite()
	}()
	k.copy(client, server, true)
}

// chunk is what is on its way.
type chunk struct {
	data []byte
	due  time.Time
}

// copy carries bytes from one end to the other, limited if it is towards the client.
func (k *link) copy(to io.Writer, from io.Reader, limited bool) {
	way := make(chan chunk, 64)
	go func() {
		defer close(way)
		for {
			data := make([]byte, 8<<10)
			n, err := from.Read(data)
			if n > 0 {
				sent := time.Now()
				if limited {
					sent = k.send(n)
				}
				way <- chunk{data[:n], sent.Add(k.trip / 2)}
			}
			if err != nil {
				return
			}
		}
	}()
	failed := false
	for c := range way {
		time.Sleep(time.Until(c.due))
		if !failed {
			_, err := to.Write(c.data)
			failed = err != nil
		}
		if c, ok := from.(net.Conn); ok && failed {
			c.Close()
		}
	}
}

// send waits until the link has sent n bytes, and says when that was.
func (k *link) send(n int) time.Time {
	k.received.Add(int64(n))
	now := time.Now()
	if k.rate == 0 {
		return now
	}
	k.mu.Lock()
	// A timer is late: what the link would have sent meanwhile is not lost.
	if late := now.Add(-5 * time.Millisecond); k.free.Before(late) {
		k.free = late
	}
	k.free = k.free.Add(time.Duration(int64(n) * 8 * int64(time.Second) / k.rate))
	free := k.free
	k.mu.Unlock()
	time.Sleep(time.Until(free))
	return free
}
