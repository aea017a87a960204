// Command gomdns is a go-libp2p host that announces itself by mDNS and prints whom it finds.
//
// One JSON object a line on stdout: {"event":"ready"|"found","id":PEERID,"addresses":[MULTIADDR…]}.
// It ends when its stdin does.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
	"github.com/multiformats/go-multiaddr"
)

type line struct {
	Event     string   `json:"event"`
	ID        string   `json:"id"`
	Addresses []string `json:"addresses"`
}

type printer struct {
	lock sync.Mutex
	out  *json.Encoder
}

func (p *printer) print(event string, id peer.ID, addresses []multiaddr.Multiaddr) {
	texts := make([]string, 0, len(addresses))
	for _, address := range addresses {
		texts = append(texts, address.String())
	}
	p.lock.Lock()
	defer p.lock.Unlock()
	if err := p.out.Encode(line{event, id.String(), texts}); err != nil {
		os.Exit(1)
	}
}

// HandlePeerFound is called by the mDNS service for each answer of somebody else.
func (p *printer) HandlePeerFound(info peer.AddrInfo) { p.print("found", info.ID, info.Addrs) }

func run() error {
	host, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/0.0.0.0/tcp/0"))
	if err != nil {
		return err
	}
	defer host.Close()
	out := &printer{out: json.NewEncoder(os.Stdout)}
	service := mdns.NewMdnsService(host, mdns.ServiceName, out)
	if err := service.Start(); err != nil {
		return err
	}
	defer service.Close()
	out.print("ready", host.ID(), host.Addrs())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
