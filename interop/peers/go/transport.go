package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
)

// transportTest answers libp2p's transport interop contract, configured by the environment alone:
// upper-case names for the unified suite, lower-case ones for the older suite.
func transportTest(ctx context.Context, _ []string) error {
	get := func(modern, legacy string) string {
		if value, ok := os.LookupEnv(modern); ok {
			return value
		}
		return os.Getenv(legacy)
	}
	for _, wanted := range [][3]string{{"TRANSPORT", "transport", "tcp"}, {"SECURE_CHANNEL", "security", "noise"}, {"MUXER", "muxer", "yamux"}} {
		if got := get(wanted[0], wanted[1]); got != wanted[2] {
			return fmt.Errorf("%s=%q is not supported, only %s", wanted[0], got, wanted[2])
		}
	}
	modern := os.Getenv("IS_DIALER") != ""
	key := "listenerAddr"
	if modern {
		key = os.Getenv("TEST_KEY") + "_listener_multiaddr"
	}
	timeout := 180
	if text := os.Getenv("test_timeout_seconds"); text != "" {
		parsed, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		timeout = parsed
	}
	redis := get("REDIS_ADDR", "redis_addr")
	if get("IS_DIALER", "is_dialer") == "true" {
		return transportDial(ctx, redis, key, timeout, modern)
	}
	return transportListen(ctx, redis, key, get("LISTENER_IP", "ip"))
}

func transportListen(ctx context.Context, redis, key, ip string) error {
	h, err := newHost("/ip4/" + ip + "/tcp/0")
	if err != nil {
		return err
	}
	defer h.Close()
	addresses, err := h.Network().InterfaceListenAddresses()
	if err != nil {
		return err
	}
	for _, address := range addresses {
		if strings.HasPrefix(address.String(), "/ip4/127.") || isCircuit(address) {
			continue
		}
		if _, err := redisCommand(redis, 10*time.Second, "RPUSH", key, fmt.Sprintf("%s/p2p/%s", address, h.ID())); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}
	return errors.New("no address that is not loopback")
}

func transportDial(ctx context.Context, redis, key string, timeout int, modern bool) error {
	address, err := redisCommand(redis, time.Duration(timeout+5)*time.Second, "BLPOP", key, strconv.Itoa(timeout))
	if err != nil {
		return err
	}
	h, err := newHost("")
	if err != nil {
		return err
	}
	defer h.Close()
	began := time.Now()
	id, err := connect(ctx, h, address)
	if err != nil {
		return err
	}
	result := <-ping.Ping(ctx, h, id)
	if result.Error != nil {
		return result.Error
	}
	total, rtt := milliseconds(time.Since(began)), milliseconds(result.RTT)
	if modern {
		fmt.Printf("latency:\n  handshake_plus_one_rtt: %.3f\n  ping_rtt: %.3f\n  unit: ms\n", total, rtt)
		return nil
	}
	report(map[string]any{"handshakePlusOneRTTMillis": total, "pingRTTMilllis": rtt})
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// errNothing is what a command says of a key that is not there, or not in time.
var errNothing = errors.New("redis: no answer in time")

// redisCommand sends one command and returns the last bulk string of its answer.
func redisCommand(address string, timeout time.Duration, words ...string) (string, error) {
	socket, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return "", err
	}
	defer socket.Close()
	_ = socket.SetDeadline(time.Now().Add(timeout))
	request := fmt.Sprintf("*%d\r\n", len(words))
	for _, word := range words {
		request += fmt.Sprintf("$%d\r\n%s\r\n", len(word), word)
	}
	if _, err := io.WriteString(socket, request); err != nil {
		return "", err
	}
	reader := bufio.NewReader(socket)
	last := ""
	for left := 1; left > 0; left-- {
		line, err := reader.ReadString('\n')
		if err != nil {
			return "", err
		}
		kind, value := line[0], strings.TrimSpace(line[1:])
		switch kind {
		case '-':
			return "", errors.New("redis: " + value)
		case ':', '+':
		case '*', '$':
			count, err := strconv.Atoi(value)
			if err != nil {
				return "", err
			}
			if count < 0 {
				return "", errNothing
			}
			if kind == '*' {
				left += count
				continue
			}
			body := make([]byte, count+2)
			if _, err := io.ReadFull(reader, body); err != nil {
				return "", err
			}
			last = string(body[:count])
		default:
			return "", fmt.Errorf("redis: unexpected %q", line)
		}
	}
	return last, nil
}
