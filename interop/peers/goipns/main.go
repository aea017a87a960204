// Command goipns checks and makes IPNS records with boxo, one JSON request a line on stdin.
//
//	{"do":"validate","key":ROUTING-KEY,"records":[RECORD]} → {"ok":true,"seq":…,"ttl":…,"value":…,"payload":…} or {"error":…}
//	{"do":"create","seed":32 BYTES,"payload":…,"seq":…,"expires":UNIX,"ttl":SECONDS,"v1":false,"embed":true} → {"ok":true,"record":…}
//	{"do":"select","key":ROUTING-KEY,"records":[RECORD…]} → {"ok":true,"index":…}
//
// Byte strings are base64.
package main

import (
	"bytes"
	"encoding/json"
	"os"
	"time"

	"github.com/ipfs/boxo/ipns"
	"github.com/ipfs/boxo/path"
	"github.com/libp2p/go-libp2p/core/crypto"
)

type request struct {
	Do      string   `json:"do"`
	Key     []byte   `json:"key"`
	Records [][]byte `json:"records"`
	Seed    []byte   `json:"seed"`
	Payload []byte   `json:"payload"`
	Seq     uint64   `json:"seq"`
	Expires int64    `json:"expires"`
	TTL     int64    `json:"ttl"`
	V1      bool     `json:"v1"`
	Embed   bool     `json:"embed"`
}

type answer struct {
	OK      bool   `json:"ok"`
	Error   string `json:"error,omitempty"`
	Seq     uint64 `json:"seq"`
	TTL     int64  `json:"ttl"`
	EOL     int64  `json:"eol"`
	Value   string `json:"value,omitempty"`
	Payload []byte `json:"payload,omitempty"`
	Record  []byte `json:"record,omitempty"`
	Index   int    `json:"index"`
}

func validate(r request) (a answer, err error) {
	// As a DHT server does, then what kubo shows of it.
	if err = (ipns.Validator{}).Validate(string(r.Key), r.Records[0]); err != nil {
		return a, err
	}
	record, err := ipns.UnmarshalRecord(r.Records[0])
	if err != nil {
		return a, err
	}
	if a.Seq, err = record.Sequence(); err != nil {
		return a, err
	}
	ttl, err := record.TTL()
	if err != nil {
		return a, err
	}
	eol, err := record.Validity()
	if err != nil {
		return a, err
	}
	value, err := record.Value()
	if err != nil {
		return a, err
	}
	payload, err := record.Metadata("_pt")
	if err != nil {
		return a, err
	}
	a.TTL, a.EOL, a.Value = int64(ttl), eol.UnixNano(), value.String()
	a.Payload, err = payload.AsBytes()
	return a, err
}

func create(r request) (a answer, err error) {
	key, _, err := crypto.GenerateEd25519Key(bytes.NewReader(r.Seed))
	if err != nil {
		return a, err
	}
	value, err := path.NewPath(ipns.NoopValue)
	if err != nil {
		return a, err
	}
	record, err := ipns.NewRecord(key, value, r.Seq, time.Unix(r.Expires, 0),
		time.Duration(r.TTL)*time.Second, ipns.WithV1Compatibility(r.V1),
		ipns.WithPublicKey(r.Embed), ipns.WithMetadata(map[string]any{"_pt": r.Payload}))
	if err != nil {
		return a, err
	}
	a.Record, err = ipns.MarshalRecord(record)
	return a, err
}

func answerTo(r request) (a answer, err error) {
	switch r.Do {
	case "create":
		return create(r)
	case "select":
		a.Index, err = ipns.Validator{}.Select(string(r.Key), r.Records)
		return a, err
	default:
		return validate(r)
	}
}

func main() {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var r request
		if in.Decode(&r) != nil {
			return
		}
		a, err := answerTo(r)
		a.OK = err == nil
		if err != nil {
			a.Error = err.Error()
		}
		if out.Encode(a) != nil {
			return
		}
	}
}
