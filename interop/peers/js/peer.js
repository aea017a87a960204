#!/usr/bin/env node
// Our own js-libp2p peer: TCP or WebSocket with Noise and yamux, QUIC, circuit relay v2 and DCUtR, nothing else.
//
// It answers the contract every peer of the interop matrix answers: listen, dial, relay, punch and version.
// Standard output carries one JSON line for each fact; everything else goes to standard error.

import './node20.js'
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { circuitRelayServer } from '@libp2p/circuit-relay-v2'
import { MANY, confirmAddresses, newNode, report } from './node.js'
import { punch } from './punch.js'
import { serve } from './serve.js'
import { runTest } from './tests.js'

const USAGE = `usage: peer.js listen --ip A [--ws | --quic] [--no-listen] [--relay MA,…]
       peer.js dial --to MULTIADDR --test NAME
       peer.js relay --ip A [--port P] [--unlimited | --duration S --data BYTES]
       peer.js punch --relay MULTIADDR [--quic] [--tell] [--open] [--to MULTIADDR]
       peer.js version`

async function listen (flags) {
  const relays = flags.relay === '' ? [] : flags.relay.split(',')
  const transport = flags.quic ? 'udp/0/quic-v1' : `tcp/0${flags.ws ? '/ws' : ''}`
  const own = flags.ip === '' || flags['no-listen'] ? [] : [`/ip4/${flags.ip}/${transport}`]
  const node = await newNode([...own, ...relays.map((relay) => `${relay}/p2p-circuit`)])
  await serve(node)
  confirmAddresses(node)
  const addresses = node.getMultiaddrs().map(String)
  if (relays.length === 0) {
    report({ multiaddr: addresses[0] })
  }
  for (const relay of relays) {
    const multiaddr = addresses.find((address) => address.startsWith(`${relay}/p2p-circuit/`))
    if (multiaddr == null) {
      throw new Error(`no reservation at ${relay}, only ${addresses}`)
    }
    report({ multiaddr })
  }
}

// js-libp2p writes the milliseconds of the time limit into STATUS, where seconds belong; the data
// limit is for both directions together. Without limits, STATUS carries none.
async function relay (flags) {
  const node = await newNode([`/ip4/${flags.ip}/tcp/${flags.port}`], {
    services: {
      relay: circuitRelayServer({
        maxInboundHopStreams: MANY,
        maxOutboundHopStreams: MANY,
        reservations: {
          maxReservations: MANY,
          applyDefaultLimit: !flags.unlimited,
          defaultDurationLimit: Number(flags.duration) * 1000,
          defaultDataLimit: BigInt(flags.data)
        }
      })
    }
  })
  confirmAddresses(node)
  report({ multiaddr: node.getMultiaddrs()[0].toString() })
}

async function dial (flags) {
  const options = {
    bytes: Number(flags.bytes),
    streams: Number(flags.streams),
    idle: Number(flags.idle),
    unsigned: flags.unsigned
  }
  const expired = new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`not done after ${flags.timeout} s`)), Number(flags.timeout) * 1000)
  })
  try {
    const detail = await Promise.race([runTest(flags.to, flags.test, options), expired])
    report({ test: flags.test, ok: true, detail })
    process.exit(0)
  } catch (error) {
    report({ test: flags.test, ok: false, detail: `${error.name}: ${error.message}` })
    console.error(error)
    process.exit(1)
  }
}

function version () {
  const manifest = new URL('./node_modules/libp2p/package.json', import.meta.url)
  report({ implementation: 'js-libp2p', version: JSON.parse(readFileSync(manifest, 'utf8')).version })
}

const commands = { listen, dial, relay, punch, version }
const command = commands[process.argv[2]]
if (command == null) {
  console.error(USAGE)
  process.exit(2)
}
const { values } = parseArgs({
  args: process.argv.slice(3),
  options: {
    ip: { type: 'string', default: '127.0.0.1' },
    ws: { type: 'boolean', default: false },
    quic: { type: 'boolean', default: false },
    'no-listen': { type: 'boolean', default: false },
    relay: { type: 'string', default: '' },
    port: { type: 'string', default: '0' },
    duration: { type: 'string', default: '120' },
    data: { type: 'string', default: String(128 * 1024) },
    unlimited: { type: 'boolean', default: false },
    to: { type: 'string', default: '' },
    test: { type: 'string', default: 'ping' },
    bytes: { type: 'string', default: String(64 * 1024 * 1024) },
    streams: { type: 'string', default: '1000' },
    idle: { type: 'string', default: '12' },
    timeout: { type: 'string', default: '60' },
    unsigned: { type: 'boolean', default: false },
    tell: { type: 'boolean', default: false },
    open: { type: 'boolean', default: false }
  }
})
process.on('SIGTERM', () => process.exit(0))
process.on('SIGINT', () => process.exit(0))
await command(values)
