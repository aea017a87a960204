#!/usr/bin/env node
// Our own js-libp2p peer: TCP, Noise and yamux, nothing else.
//
// It answers the contract every peer of the interop matrix answers: listen, dial and version.
// Standard output carries one JSON line for each fact; everything else goes to standard error.

import './node20.js'
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { newNode, report } from './node.js'
import { serve } from './serve.js'
import { runTest } from './tests.js'

const USAGE = 'usage: peer.js listen --ip A | dial --to MULTIADDR --test NAME | version'

async function listen (flags) {
  const node = await newNode([`/ip4/${flags.ip}/tcp/0`])
  await serve(node)
  // A public address, as the laboratory's are, is told to nobody before somebody reached it there.
  for (const { multiaddr } of node.services.addresses.getAddressesWithMetadata()) {
    node.services.addresses.confirmObservedAddr(multiaddr, { type: 'transport' })
  }
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

const commands = { listen, dial, version }
const command = commands[process.argv[2]]
if (command == null) {
  console.error(USAGE)
  process.exit(2)
}
const { values } = parseArgs({
  args: process.argv.slice(3),
  options: {
    ip: { type: 'string', default: '127.0.0.1' },
    to: { type: 'string', default: '' },
    test: { type: 'string', default: 'ping' },
    bytes: { type: 'string', default: String(64 * 1024 * 1024) },
    streams: { type: 'string', default: '1000' },
    idle: { type: 'string', default: '12' },
    timeout: { type: 'string', default: '60' },
    unsigned: { type: 'boolean', default: false }
  }
})
process.on('SIGTERM', () => process.exit(0))
process.on('SIGINT', () => process.exit(0))
await command(values)
