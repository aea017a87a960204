// Command peer is our own go-libp2p peer: TCP or WebSocket with Noise and yamux, QUIC, and circuit
// relay v2, and DCUtR, nothing else.
//
// It answers the contract every peer of the interop matrix answers (listen, dial, relay, version),
// is the baseline forwarder of the benchmark (forward-expose, forward-bind), answers libp2p's
// transport interop contract (transport-test), and reads metrics as Prometheus does (check-metrics).
//
// Standard output carries one JSON line for each fact; everything else goes to standard error.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"
)

const usage = `usage: peer COMMAND [flags]
  listen --ip A [--ws | --quic] [--no-listen] [--relay MA,…]
                                                   serve the interop protocols
  dial --to MULTIADDR --test NAME                  run one test
  relay --ip A [--port P] [--quic] [--unlimited | --duration S --data BYTES]
                                                   relay server
  forward-expose --target HOST:PORT --listen MA [--relay MA,…]
                                                   baseline forwarder, the side of the service
  forward-bind --listen HOST:PORT --peer MA        baseline forwarder, the side of the client
  punch --relay MA [--quic] [--to MULTIADDR] [--timeout S]
                                                   punch holes (DCUtR), for interop.dcutr
  check-metrics                                    parse the Prometheus text on standard input
  quic-serve --ip A [--retry]                      quic-go itself, for interop.quic
  quic-fetch --to MULTIADDR [--sizes N,…] [--connections N]
                                                   the same
  transport-test                                   libp2p's transport interop contract (environment)
  hole-punch-test                                  libp2p's hole punch interop contract (environment)
  version`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	commands := map[string]func(context.Context, []string) error{
		"listen":          listen,
		"dial":            dial,
		"relay":           relay,
		"forward-expose":  forwardExpose,
		"forward-bind":    forwardBind,
		"punch":           punch,
		"check-metrics":   checkMetrics,
		"transport-test":  transportTest,
		"hole-punch-test": holePunchTest,
		"quic-serve":      quicServe,
		"quic-fetch":      quicFetch,
		"version":         version,
	}
	command, known := commands[os.Args[1]]
	if !known {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	if err := command(ctx, os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func listen(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("listen", flag.ExitOnError)
	ip := flags.String("ip", "127.0.0.1", "address to listen on, none if empty")
	none := flags.Bool("no-listen", false, "no listener of our own: reachable through relays alone")
	web := flags.Bool("ws", false, "listen for WebSockets, on /ws")
	quic := flags.Bool("quic", false, "listen for QUIC instead of TCP")
	relays := flags.String("relay", "", "multiaddrs of relays to reserve at, comma between them")
	_ = flags.Parse(args)
	at := ""
	if *ip != "" && !*none {
		at = "/ip4/" + *ip + "/tcp/0"
		if *web {
			at += "/ws"
		}
		if *quic {
			at = "/ip4/" + *ip + "/udp/0/quic-v1"
		}
	}
	h, err := newHost(at, reachedThrough(*relays)...)
	if err != nil {
		return err
	}
	defer h.Close()
	serve(h)
	addresses := []string{fullAddress(h)}
	if *relays != "" {
		if addresses, err = reserved(ctx, h, *relays); err != nil {
			return err
		}
	}
	for _, address := range addresses {
		report(map[string]any{"multiaddr": address})
	}
	<-ctx.Done()
	return nil
}

func dial(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("dial", flag.ExitOnError)
	options := testOptions{}
	to := flags.String("to", "", "multiaddr of the listener, with /p2p/ID")
	name := flags.String("test", "ping", "ping, identify, echo64, echosmall, cutoff, streams1000, halfclose, reset or idle")
	flags.IntVar(&options.bytes, "bytes", 64<<20, "echo64, cutoff: bytes to send")
	flags.IntVar(&options.streams, "streams", 1000, "streams1000: streams to hold open")
	flags.Float64Var(&options.idle, "idle", 12, "idle: seconds of silence")
	flags.BoolVar(&options.unsigned, "unsigned", false, "identify: accept a peer without a signed record")
	timeout := flags.Float64("timeout", 60, "seconds for the whole test")
	_ = flags.Parse(args)
	ctx, cancel := context.WithTimeout(ctx, time.Duration(*timeout*float64(time.Second)))
	defer cancel()
	detail, err := runTest(ctx, *to, *name, options)
	result := map[string]any{"test": *name, "ok": err == nil, "detail": detail}
	if err != nil {
		result["detail"] = err.Error()
	}
	report(result)
	if err != nil {
		return errors.New("test failed")
	}
	return nil
}

func version(context.Context, []string) error {
	found := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == "github.com/libp2p/go-libp2p" {
				found = module.Version
			}
		}
	}
	report(map[string]any{"implementation": "go-libp2p", "version": found})
	return nil
}

func report(facts map[string]any) {
	line, err := json.Marshal(facts)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}
