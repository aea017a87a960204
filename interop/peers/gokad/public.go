package main

import (
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	ma "github.com/multiformats/go-multiaddr"
)

// rsa is the kind of identity that the oldest bootstrap peers of the public DHT have.
func rsa() (libp2p.Option, error) {
	key, _, err := crypto.GenerateKeyPairWithReader(crypto.RSA, 2048, rand.Reader)
	return libp2p.Identity(key), err
}

// crowded has a server announce as many addresses as a public node of kubo does, which makes replies
// as long as they are there. All but the given one lead nowhere.
func crowded(ip string, index int) libp2p.Option {
	hash := "uEiA" + strings.Repeat("A", 43)
	six := fmt.Sprintf("/ip6/2a%02x:%x::1", index/200+1, index+1)
	var more []ma.Multiaddr
	for _, text := range []string{
		"/ip4/" + ip + "/udp/4001/quic-v1",
		"/ip4/" + ip + "/udp/4001/quic-v1/webtransport/certhash/" + hash + "/certhash/" + hash,
		"/ip4/" + ip + "/udp/4001/webrtc-direct/certhash/" + hash,
		six + "/tcp/4001",
		six + "/udp/4001/quic-v1",
		six + "/udp/4001/quic-v1/webtransport/certhash/" + hash + "/certhash/" + hash,
		six + "/udp/4001/webrtc-direct/certhash/" + hash,
	} {
		more = append(more, ma.StringCast(text))
	}
	return libp2p.AddrsFactory(func(own []ma.Multiaddr) []ma.Multiaddr {
		return append(own[:len(own):len(own)], more...)
	})
}
