// Command load generates and measures TCP traffic for the benchmark of pt.
//
//	load serve ADDR             target side: the first byte of a connection chooses what it does
//	load fwd|rev ADDR STREAMS   client side: STREAMS connections that send (fwd) or receive (rev)
//	load echo ADDR COUNT        1-byte ping-pong on one connection
//	load conns ADDR PARALLEL SECONDS   connect, echo one byte, close, again and again
//	load idle ADDR COUNT        open COUNT connections, echo one byte on each, hold them
//	load first ADDR SECONDS     poll until ADDR accepts, then wait for one echoed byte
//
// serve, fwd and rev answer each line on standard input with one JSON line of counters, so that the
// caller takes rates over a window of its choice and no forwarder's buffering or handling of
// end-of-file distorts them; idle holds until standard input ends. Every other command prints one
// JSON line and ends. Times are nanoseconds of the system clock.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	modeSink   = 'S'
	modeSource = 'R'
	modeEcho   = 'E'
	writeSize  = 128 << 10
	readSize   = 256 << 10
	dialWait   = 10 * time.Second
)

var received, sent, accepted atomic.Int64

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func report(v map[string]any) {
	fatal(json.NewEncoder(os.Stdout).Encode(v))
}

func marks() {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		report(map[string]any{
			"t": time.Now().UnixNano(), "rx": received.Load(), "tx": sent.Load(), "conns": accepted.Load(),
		})
	}
}

func sink(c net.Conn) {
	defer c.Close()
	buf := make([]byte, readSize)
	for {
		n, err := c.Read(buf)
		received.Add(int64(n))
		if err != nil {
			return
		}
	}
}

func source(c net.Conn) {
	defer c.Close()
	buf := make([]byte, writeSize)
	for i := range buf {
		buf[i] = byte(i * 7)
	}
	for {
		n, err := c.Write(buf)
		sent.Add(int64(n))
		if err != nil {
			return
		}
	}
}

func echo(c net.Conn) {
	defer c.Close()
	var buf [512]byte
	for {
		n, err := c.Read(buf[:])
		if err != nil {
			return
		}
		if _, err = c.Write(buf[:n]); err != nil {
			return
		}
	}
}

func serve(addr string) {
	l, err := net.Listen("tcp4", addr)
	fatal(err)
	report(map[string]any{"listening": l.Addr().String()})
	go marks()
	for {
		c, err := l.Accept()
		fatal(err)
		accepted.Add(1)
		go func() {
			var mode [1]byte
			if _, err := io.ReadFull(c, mode[:]); err != nil {
				c.Close()
				return
			}
			switch mode[0] {
			case modeSink:
				sink(c)
			case modeSource:
				source(c)
			case modeEcho:
				echo(c)
			default:
				c.Close()
			}
		}()
	}
}

func dial(addr string, mode byte) (net.Conn, error) {
	c, err := net.DialTimeout("tcp4", addr, dialWait)
	if err != nil {
		return nil, err
	}
	if _, err = c.Write([]byte{mode}); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func bulk(addr string, mode byte, streams int, run func(net.Conn)) {
	for i := 0; i < streams; i++ {
		c, err := dial(addr, mode)
		fatal(err)
		go run(c)
	}
	report(map[string]any{"streams": streams})
	marks()
}

// pingOnce sends one byte and waits for it to come back.
func pingOnce(c net.Conn, b *[1]byte) error {
	b[0] = 'x'
	if _, err := c.Write(b[:]); err != nil {
		return err
	}
	_, err := io.ReadFull(c, b[:])
	return err
}

// percentiles are in microseconds.
func percentiles(ds []time.Duration) (p50, p99 float64) {
	if len(ds) == 0 {
		return 0, 0
	}
	sort.Slice(ds, func(i, j int) bool { return ds[i] < ds[j] })
	at := func(q float64) float64 { return float64(ds[int(q*float64(len(ds)-1))].Nanoseconds()) / 1e3 }
	return at(0.50), at(0.99)
}

func pingPong(addr string, count int) {
	c, err := dial(addr, modeEcho)
	fatal(err)
	var b [1]byte
	for i := 0; i < count/10+1; i++ {
		fatal(pingOnce(c, &b))
	}
	took := make([]time.Duration, count)
	for i := range took {
		t := time.Now()
		fatal(pingOnce(c, &b))
		took[i] = time.Since(t)
	}
	p50, p99 := percentiles(took)
	report(map[string]any{"count": count, "p50_us": p50, "p99_us": p99})
}

func connections(addr string, parallel int, seconds float64) {
	var mu sync.Mutex
	var took []time.Duration
	var failed int
	var first string
	var wg sync.WaitGroup
	start := time.Now()
	end := start.Add(time.Duration(seconds * 1e9))
	for i := 0; i < parallel; i++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var b [1]byte
			for time.Now().Before(end) {
				t := time.Now()
				c, err := dial(addr, modeEcho)
				if err == nil {
					c.SetDeadline(time.Now().Add(dialWait))
					err = pingOnce(c, &b)
					c.Close()
				}
				mu.Lock()
				if err != nil {
					if failed++; first == "" {
						first = err.Error()
					}
				} else {
					took = append(took, time.Since(t))
				}
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	span := time.Since(start).Seconds()
	p50, p99 := percentiles(took)
	report(map[string]any{
		"count": len(took), "failed": failed, "error": first, "seconds": span, "p50_us": p50, "p99_us": p99,
	})
}

func idle(addr string, count int) {
	held := make([]net.Conn, count)
	next := make(chan int)
	var wg sync.WaitGroup
	for w := 0; w < 32; w++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var b [1]byte
			for i := range next {
				c, err := dial(addr, modeEcho)
				fatal(err)
				fatal(pingOnce(c, &b))
				held[i] = c
			}
		}()
	}
	for i := range held {
		next <- i
	}
	close(next)
	wg.Wait()
	report(map[string]any{"held": count})
	io.Copy(io.Discard, os.Stdin)
}

func firstByte(addr string, seconds float64) {
	report(map[string]any{"polling": addr})
	end := time.Now().Add(time.Duration(seconds * 1e9))
	for time.Now().Before(end) {
		c, err := net.DialTimeout("tcp4", addr, time.Second)
		if err != nil {
			time.Sleep(500 * time.Microsecond)
			continue
		}
		accept := time.Now().UnixNano()
		c.SetDeadline(end)
		_, err = c.Write([]byte{modeEcho, 'x'})
		fatal(err)
		var b [1]byte
		_, err = io.ReadFull(c, b[:])
		fatal(err)
		report(map[string]any{"accept": accept, "byte": time.Now().UnixNano()})
		return
	}
	fatal(fmt.Errorf("%s did not accept within %g s", addr, seconds))
}

func main() {
	args := os.Args[1:]
	number := func(i int) float64 {
		if i >= len(args) {
			fatal(fmt.Errorf("argument %d is missing", i))
		}
		n, err := strconv.ParseFloat(args[i], 64)
		fatal(err)
		return n
	}
	if len(args) < 2 {
		fatal(fmt.Errorf("usage: load serve|fwd|rev|echo|conns|idle|first ADDR …"))
	}
	switch addr := args[1]; args[0] {
	case "serve":
		serve(addr)
	case "fwd":
		bulk(addr, modeSink, int(number(2)), source)
	case "rev":
		bulk(addr, modeSource, int(number(2)), sink)
	case "echo":
		pingPong(addr, int(number(2)))
	case "conns":
		connections(addr, int(number(2)), number(3))
	case "idle":
		idle(addr, int(number(2)))
	case "first":
		firstByte(addr, number(2))
	default:
		fatal(fmt.Errorf("unknown command %q", args[0]))
	}
}
