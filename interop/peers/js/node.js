// The node and the few stream helpers the handlers and the tests share.

import { setTimeout as sleep } from 'node:timers/promises'
import { quic } from '@chainsafe/libp2p-quic'
import { circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { noise } from '@libp2p/noise'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { webSockets } from '@libp2p/websockets'
import { yamux } from '@libp2p/yamux'
import { StreamResetError } from '@libp2p/interface'
import { createLibp2p } from 'libp2p'

export const ECHO = '/interop/echo/1.0.0'
export const RESET = '/interop/reset/1.0.0'
export const TOKEN_SIZE = 16

const PROBES = 4 // STOP_SENDING may come after the end
const REFUSED_WITHIN = 50 // ms; a stream's first `onDrain` says nothing about later writes
const PAUSE_ABOVE = 1024 * 1024 // unread bytes

// More streams and connections than any test makes: limits are not what is tested.
export const MANY = 4096
export const STREAM_LIMITS = { maxInboundStreams: MANY, maxOutboundStreams: MANY }

// With `localPort` all TCP dials come from that port, which can have no listener then.
export function newNode (listen, { identifyOnOpen = true, services = {}, localPort, start = true } = {}) {
  return createLibp2p({
    start,
    addresses: { listen },
    nodeInfo: { name: 'interop-peer-js', version: '0.1.0', userAgent: 'interop-peer-js' },
    transports: [tcp({ dialOpts: { localPort } }), webSockets(), quic({ maxConcurrentStreamLimit: MANY }), circuitRelayTransport()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux({ ...STREAM_LIMITS, maxEarlyStreams: MANY })],
    connectionManager: { inboundConnectionThreshold: MANY },
    connectionMonitor: { enabled: false },
    services: {
      identify: identify({ runOnConnectionOpen: identifyOnOpen }),
      ping: ping(),
      addresses: (components) => components.addressManager,
      ...services
    }
  })
}

// Tells the node that it is reachable where it listens. A public address, as the laboratory's are,
// is told to nobody before somebody reached it there.
export function confirmAddresses (node) {
  for (const { multiaddr } of node.services.addresses.getAddressesWithMetadata()) {
    node.services.addresses.confirmObservedAddr(multiaddr, { type: 'transport' })
  }
}

export function report (facts) {
  process.stdout.write(JSON.stringify(facts) + '\n')
}

// Sends all of `data`, waiting whenever the stream says that it is full.
export async function write (stream, data) {
  if (!stream.send(data)) {
    await stream.onDrain()
  }
}

// Reads to the end and tells a reset from an end of file. js-libp2p's QUIC shows both as the end,
// and rust-libp2p resets a QUIC stream by an end together with STOP_SENDING; but after a mere end of
// file the other direction still takes data.
export async function endedByReset (stream, reader) {
  try {
    await reader.all()
    const lost = new Promise((resolve, reject) => {
      stream.addEventListener('close', ({ error }) => { if (error != null) reject(error) })
    })
    for (let attempt = 0; attempt < PROBES; attempt++) {
      stream.send(Buffer.from('?'))
      await Promise.race([lost, sleep(REFUSED_WITHIN)])
    }
    return false
  } catch (error) {
    return true
  }
}

// Reads a stream by counts of bytes. It listens from its construction on, so that nothing that
// arrives before the first read is missed, and pauses the stream while much is unread.
export class Reader {
  #chunks = []
  #unread = 0
  #ended = false
  #error = null
  #wake = () => {}

  constructor (stream) {
    this.stream = stream
    const finish = (error) => {
      this.#ended = true
      this.#error ??= error
      this.#wake()
    }
    stream.addEventListener('message', (event) => {
      const chunk = Buffer.from(event.data.subarray())
      this.#chunks.push(chunk)
      this.#unread += chunk.length
      if (this.#unread > PAUSE_ABOVE && stream.readStatus === 'readable') {
        stream.pause()
      }
      this.#wake()
    })
    stream.addEventListener('end', () => finish(stream.status === 'reset' ? new StreamResetError() : null))
    stream.addEventListener('close', (event) => {
      if (event.error != null) {
        finish(event.error)
      }
    })
    if (stream.status === 'reset') {
      finish(new StreamResetError())
    } else if (stream.readableEnded) {
      finish(null)
    }
  }

  // The next message, or null at the end; throws when the stream was reset.
  async next () {
    while (this.#chunks.length === 0) {
      if (this.#error != null) {
        throw this.#error
      }
      if (this.#ended) {
        return null
      }
      await new Promise((resolve) => { this.#wake = resolve })
    }
    const chunk = this.#chunks.shift()
    this.#unread -= chunk.length
    if (this.stream.readStatus === 'paused' && this.#unread <= PAUSE_ABOVE) {
      this.stream.resume()
    }
    return chunk
  }

  async exactly (count) {
    const parts = []
    let have = 0
    while (have < count) {
      const part = await this.next()
      if (part == null) {
        throw new Error(`the stream ended ${count - have} bytes early`)
      }
      parts.push(part)
      have += part.length
    }
    const all = Buffer.concat(parts)
    if (have > count) {
      this.#chunks.unshift(all.subarray(count))
      this.#unread += have - count
    }
    return all.subarray(0, count)
  }

  async all () {
    const parts = []
    for (let part = await this.next(); part != null; part = await this.next()) {
      parts.push(part)
    }
    return Buffer.concat(parts)
  }
}
