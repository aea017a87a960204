// A peer that goes from a relayed connection to a direct one (DCUtR): reached through a relay, or
// dialing through it.
//
// It says multiaddr when it can be reached, relayed and direct with the address and the seconds when
// it has such a connection; who dials ends with a ping over the direct one.
//
// js-libp2p tells a peer where it is seen only after somebody has reached it there, and nobody does
// through a NAT; and TCP addresses not at all, since it does not dial from where it listens. With
// --tell it is confirmed by us, as an application may: on QUIC it is where its dials come from; on
// TCP, too, once all of them come from one port, on which it must not listen then.

import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { dcutr } from '@libp2p/dcutr'
import { multiaddr } from '@multiformats/multiaddr'
import { Reader, confirmAddresses, newNode, report, write } from './node.js'

const PING = '/ipfs/ping/1.0.0'
const PING_SIZE = 32
const SEEN_WITHIN = 15_000 // ms

export async function punch (flags) {
  const listen = []
  if (!flags.tell) {
    listen.push(`/ip4/${flags.ip}/${flags.quic ? 'udp/0/quic-v1' : 'tcp/0'}`)
  }
  if (flags.to === '') {
    listen.push(`${flags.relay}/p2p-circuit`)
  }
  const node = await newNode(listen, {
    services: { dcutr: dcutr() },
    localPort: flags.tell && !flags.quic ? await freePort() : undefined,
    start: false
  })
  const seen = new Promise((resolve) => {
    node.addEventListener('peer:identify', ({ detail }) => {
      if (!isRelayed(detail.connection) && detail.observedAddr != null) {
        resolve(detail.observedAddr)
      }
    })
  })
  await node.start()
  await node.dial(multiaddr(flags.relay))
  const address = await within(SEEN_WITHIN, 'the relay does not say where it sees us', seen)
  if (flags.tell) {
    node.services.addresses.confirmObservedAddr(address, { type: 'observed' })
  }
  if (flags.open) {
    confirmAddresses(node)
  }
  const direct = watch(node, flags.relay)
  if (flags.to !== '') {
    await node.dial(multiaddr(flags.to))
    await ping(await within(Number(flags.timeout) * 1000, 'no direct connection', direct))
    process.exit(0)
  }
  const reachable = node.getMultiaddrs().map(String).find((own) => own.startsWith(`${flags.relay}/p2p-circuit/`))
  if (reachable == null) {
    throw new Error(`no reservation at ${flags.relay}, only ${node.getMultiaddrs()}`)
  }
  report({ multiaddr: reachable })
}

// Says what connections there are, but for the relay's; the first direct one.
function watch (node, relay) {
  let began = performance.now()
  return new Promise((resolve) => {
    node.addEventListener('connection:open', ({ detail: connection }) => {
      if (relay.endsWith(`/${connection.remotePeer}`)) {
        return
      }
      const name = isRelayed(connection) ? 'relayed' : 'direct'
      report({ [name]: String(connection.remoteAddr), seconds: (performance.now() - began) / 1000 })
      if (name === 'relayed') {
        began = performance.now()
      } else {
        resolve(connection)
      }
    })
  })
}

function isRelayed (connection) {
  return String(connection.remoteAddr).includes('/p2p-circuit')
}

// On this connection, while libp2p's own service takes any of the peer's.
async function ping (connection) {
  const stream = await connection.newStream(PING)
  const sent = randomBytes(PING_SIZE)
  const reader = new Reader(stream)
  await write(stream, sent)
  const back = await reader.exactly(PING_SIZE)
  if (!back.equals(sent)) {
    throw new Error(`sent ${sent.toString('hex')}, got ${back.toString('hex')}`)
  }
}

async function freePort () {
  const server = createServer().listen(0)
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}

async function within (ms, complaint, promise) {
  const expired = new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(complaint)), ms).unref()
  })
  return await Promise.race([promise, expired])
}
