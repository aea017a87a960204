from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from pt.errors import CryptoFailure, LocalProtocolError, RemoteProtocolError
from pt.identity.keys import PrivateKey
from pt.noise.payload import MAX_MUXERS, SIGNATURE_PREFIX, NoisePayload, choose_muxer

ALICE = PrivateKey.generate(b"a" * 32)
BOB = PrivateKey.generate(b"b" * 32)
STATIC = b"s" * 32


def oracle():
    """Google's implementation of the specification's message."""
    file = descriptor_pb2.FileDescriptorProto(name="payload.proto", syntax="proto2")
    extensions = file.message_type.add(name="Extensions")
    extensions.field.add(name="webtransport_certhashes", number=1, label=3, type=12)
    extensions.field.add(name="stream_muxers", number=2, label=3, type=9)
    payload = file.message_type.add(name="Payload")
    payload.field.add(name="identity_key", number=1, label=1, type=12)
    payload.field.add(name="identity_sig", number=2, label=1, type=12)
    payload.field.add(name="extensions", number=4, label=1, type=11, type_name=".Extensions")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Payload"))()


@pytest.mark.parametrize("muxers", [(), ("/yamux/1.0.0",), ("/yamux/1.0.0", "/mplex/6.7.0")])
def test_bytes_are_those_of_the_protobuf_library(muxers: tuple[str, ...]) -> None:
    ours = NoisePayload.create(ALICE, STATIC, muxers)
    theirs = oracle()
    theirs.identity_key = ALICE.public.to_protobuf()
    theirs.identity_sig = ALICE.sign(b"noise-libp2p-static-key:" + STATIC)
    if muxers:
        theirs.extensions.stream_muxers.extend(muxers)
    assert ours.encode() == theirs.SerializeToString()
    assert NoisePayload.decode(ours.encode()) == ours
    assert ours.verify(STATIC) == ALICE.public


def test_certificate_hashes_and_unknown_fields_are_skipped() -> None:
    theirs = oracle()
    theirs.identity_key = b"key"
    theirs.extensions.webtransport_certhashes.append(b"hash")
    theirs.extensions.stream_muxers.append("/yamux/1.0.0")
    data = b"\x18\x01" + theirs.SerializeToString() + b"\xfa\x01\x03new"
    payload = NoisePayload.decode(data)
    assert payload == NoisePayload(
        identity_key=b"key", identity_sig=b"", stream_muxers=("/yamux/1.0.0",)
    )


@pytest.mark.parametrize(
    "payload",
    [
        NoisePayload(
            identity_key=BOB.public.to_protobuf(),
            identity_sig=ALICE.sign(SIGNATURE_PREFIX + STATIC),
        ),
        NoisePayload(identity_key=ALICE.public.to_protobuf(), identity_sig=ALICE.sign(STATIC)),
        NoisePayload(identity_key=ALICE.public.to_protobuf(), identity_sig=b""),
        NoisePayload.create(ALICE, b"t" * 32),
    ],
    ids=["other key", "no prefix", "no signature", "other static key"],
)
def test_bad_signature(payload: NoisePayload) -> None:
    with pytest.raises(CryptoFailure):
        payload.verify(STATIC)


@pytest.mark.parametrize("key", [b"", b"\x08\x01", b"\x08\x09\x12\x01a", b"\xff"])
def test_bad_key(key: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        NoisePayload(identity_key=key, identity_sig=b"").verify(STATIC)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"\x0a\x05abc",
        b"\x22\x04\x12\x02\xff\xfe",
        NoisePayload(
            identity_key=b"", identity_sig=b"", stream_muxers=("/m",) * (MAX_MUXERS + 1)
        ).encode(),
    ],
    ids=["not protobuf", "cut short", "not utf-8", "too many muxers"],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        NoisePayload.decode(data)


def test_muxer_limit() -> None:
    most = ("/m",) * MAX_MUXERS
    assert (
        NoisePayload.decode(NoisePayload.create(ALICE, STATIC, most).encode()).stream_muxers == most
    )
    with pytest.raises(LocalProtocolError):
        NoisePayload.create(ALICE, STATIC, ("/m",) * (MAX_MUXERS + 1))


@pytest.mark.parametrize(
    ("initiator", "responder", "chosen"),
    [
        (("/y", "/m"), ("/m", "/y"), "/y"),
        (("/q", "/m"), ("/m", "/y"), "/m"),
        (("/y",), ("/m",), None),
        ((), ("/m",), None),
        (("/m",), (), None),
        ((), (), None),
    ],
)
def test_choice(initiator: tuple[str, ...], responder: tuple[str, ...], chosen: str | None) -> None:
    assert choose_muxer(initiator, responder) == chosen
