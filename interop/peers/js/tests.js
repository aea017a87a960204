// The tests a dialer runs.

import { createHash, randomBytes, randomFillSync } from 'node:crypto'
import { networkInterfaces } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { multiaddr } from '@multiformats/multiaddr'
import { ECHO, MANY, RESET, Reader, TOKEN_SIZE, endedByReset, newNode, write } from './node.js'

const OPEN_AT_ONCE = 64 // rust and Go refuse more than 256 that are not acknowledged yet
const HALF_CLOSE_BYTES = 128 * 1024 // fits the initial yamux window of 256 KiB in both directions
const ECHO_SMALL_BYTES = 32 * 1024 // fits the limit of a public relay, with all else on a circuit
const BLOCK = 64 * 1024
const CUTOFF_BLOCK = 4 * 1024 // small beside any limit, so that the count says where the end came
const SILENCE = 5000 // ms without a byte after which an end is taken to have gone unnoticed
const WANTED = ['/ipfs/ping/1.0.0', '/ipfs/id/1.0.0', ECHO, RESET]

export async function runTest (to, name, options) {
  const tests = { ping, identify, echo64, echosmall, cutoff, streams1000, halfclose, reset, idle }
  if (tests[name] == null) {
    throw new Error(`unknown test ${name}`)
  }
  const node = await newNode([], { identifyOnOpen: name !== 'identify' }) // that test asks by itself, to see an error
  const connection = await node.dial(multiaddr(to))
  return await tests[name]({ node, connection, options })
}

function open (connection, protocol) {
  return connection.newStream(protocol, { maxOutboundStreams: MANY, runOnLimitedConnection: true })
}

async function ping ({ node, connection }) {
  let best = Infinity
  for (let i = 0; i < 5; i++) {
    best = Math.min(best, await node.services.ping.ping(connection.remotePeer))
    // It may not have a second stream while the peer has not closed the first one.
    while (connection.streams.some(({ protocol }) => protocol === WANTED[0])) {
      await sleep(1)
    }
  }
  return `5 pings, best ${best} ms`
}

async function identify ({ node, connection, options }) {
  const facts = await node.services.identify.identify(connection)
  if (!facts.agentVersion) {
    throw new Error('no agent version')
  }
  for (const wanted of WANTED) {
    if (!facts.protocols.includes(wanted)) {
      throw new Error(`protocol ${wanted} is missing in ${facts.protocols}`)
    }
  }
  const key = connection.remotePeer.publicKey
  if (!connection.remotePeer.equals(facts.peerId) || facts.publicKey == null || !Buffer.from(key.raw).equals(Buffer.from(facts.publicKey).subarray(-32))) {
    throw new Error('the public key does not belong to the peer id')
  }
  // The socket's own address is hidden: the observed one must be of an interface of this machine,
  // and its port must not be the listener's. js-libp2p itself appends our peer id to it.
  // On a circuit it is the relay's, and rust-libp2p says nothing but our own id.
  const circuit = connection.remoteAddr.toString().includes('/p2p-circuit')
  const seen = String(facts.observedAddr)
  if (circuit && facts.observedAddr != null && !seen.includes('/p2p-circuit') && seen !== `/p2p/${node.peerId}`) {
    throw new Error(`observed address ${seen}, although we came by a relay`)
  }
  const observed = facts.observedAddr?.toString().match(/^\/ip4\/([0-9.]+)\/((?:tcp|udp)\/[0-9]+)(\/ws|\/quic-v1)?(\/p2p\/.*)?$/)
  const ours = Object.values(networkInterfaces()).flat().map(({ address }) => address)
  if (!circuit && (observed == null || !ours.includes(observed[1]) || connection.remoteAddr.toString().includes(`/${observed[2]}/`))) {
    throw new Error(`observed address ${facts.observedAddr} is not ours, ${ours}`)
  }
  const record = facts.signedPeerRecord
  if (record == null && !options.unsigned) {
    throw new Error('no signed peer record')
  }
  if (record != null && record.addresses.length === 0) {
    throw new Error('the signed record has no address')
  }
  return `agent ${facts.agentVersion}, ${facts.protocols.length} protocols, ${facts.listenAddrs.length} addresses, signed record: ${record != null}`
}

async function echo64 ({ connection, options }) {
  const began = performance.now()
  const stream = await open(connection, ECHO)
  const [sent, received] = [createHash('sha256'), createHash('sha256')]
  const send = async () => {
    for (let left = options.bytes; left > 0; left -= BLOCK) {
      const block = randomFillSync(Buffer.alloc(Math.min(left, BLOCK)))
      sent.update(block)
      await write(stream, block)
    }
    await stream.close()
  }
  const receive = async () => {
    const reader = new Reader(stream)
    let count = 0
    for (let part = await reader.next(); part != null; part = await reader.next()) {
      received.update(part)
      count += part.length
    }
    return count
  }
  const [count] = await Promise.all([receive(), send()])
  const [left, right] = [sent.digest('hex'), received.digest('hex')]
  if (count !== options.bytes || left !== right) {
    throw new Error(`${count} bytes of ${options.bytes} came back, hash equal: ${left === right}`)
  }
  return `${count} bytes, sha256 ${left.slice(0, 8)}…, ${seconds(began)} s`
}

async function echosmall ({ connection, options }) {
  return await echo64({ connection, options: { ...options, bytes: ECHO_SMALL_BYTES } })
}

// Has block after block echoed until the relay cuts the circuit, and says how the end looks and
// after how many bytes, in each direction, it came. A relay that carries what fits and then ends one
// direction can leave js-libp2p waiting for the other.
async function cutoff ({ connection, options }) {
  const stream = await open(connection, ECHO)
  const reader = new Reader(stream)
  const roundTrip = async () => {
    await write(stream, Buffer.alloc(CUTOFF_BLOCK))
    await reader.exactly(CUTOFF_BLOCK)
  }
  for (let count = 0; count < options.bytes; count += CUTOFF_BLOCK) {
    const silence = new AbortController()
    const end = await Promise.race([
      roundTrip().then(() => null, (error) => error),
      sleep(SILENCE, new Error(`nothing for ${SILENCE / 1000} s`), { signal: silence.signal }).catch(() => {})
    ])
    silence.abort()
    if (end != null) {
      const shown = { Error: end.message, StreamResetError: 'a reset' }[end.name] ?? end.name
      return `${count} bytes, then ${shown}`
    }
  }
  throw new Error(`all ${options.bytes} bytes came back: nothing cut the circuit`)
}

async function streams1000 ({ connection, options }) {
  const began = performance.now()
  const held = []
  let next = 0
  const worker = async () => {
    while (next < options.streams) {
      const index = next++
      const stream = await open(connection, ECHO)
      held[index] = { stream, reader: new Reader(stream) }
      await roundTrip(held[index], `hello ${index}`)
    }
  }
  await Promise.all(Array.from({ length: OPEN_AT_ONCE }, worker))
  // All are open now: each must still be alive, and each must end cleanly.
  for (const [index, one] of held.entries()) {
    await roundTrip(one, `again ${index}`)
  }
  for (const { stream } of held) {
    await stream.close()
  }
  for (const { reader } of held) {
    const rest = await reader.all()
    if (rest.length > 0) {
      throw new Error(`a stream ended with ${rest}`)
    }
  }
  return `${held.length} streams, ${seconds(began)} s`
}

async function roundTrip ({ stream, reader }, text) {
  await write(stream, Buffer.from(text))
  const back = await reader.exactly(text.length)
  if (back.toString() !== text) {
    throw new Error(`sent ${text}, got ${back}`)
  }
}

async function halfclose ({ connection }) {
  const stream = await open(connection, ECHO)
  const reader = new Reader(stream)
  const data = randomBytes(HALF_CLOSE_BYTES)
  await write(stream, data)
  await stream.close()
  const back = await reader.all()
  if (!back.equals(data)) {
    throw new Error(`${back.length} bytes of ${data.length} came back after the close`)
  }
  return `${back.length} bytes read after the write side was closed`
}

async function reset ({ connection }) {
  const token = randomBytes(TOKEN_SIZE)
  const asked = await ask(connection, 'R', token)
  if (!await endedByReset(asked.stream, asked.reader)) {
    throw new Error('expected a reset from the peer, got an end of file')
  }
  const watched = await ask(connection, 'W', token)
  await watched.reader.exactly(1)
  watched.stream.abort(new Error('reset by the test'))
  for (let i = 0; i < 100; i++) {
    const { stream, reader } = await ask(connection, 'Q', token)
    const answer = (await reader.all()).toString()
    await stream.close()
    if (answer === 'r') {
      return "peer's reset seen, ours seen by the peer"
    }
    if (answer === 'e') {
      throw new Error('the peer took our reset for an end of file')
    }
    if (answer !== 'p') {
      throw new Error(`query answered ${answer}`)
    }
    await sleep(50)
  }
  throw new Error('the peer never noticed our reset')
}

async function ask (connection, command, token) {
  const stream = await open(connection, RESET)
  const reader = new Reader(stream)
  // A peer may reset before we read: the reader must be listening by then.
  await write(stream, Buffer.concat([Buffer.from(command), token]))
  return { stream, reader }
}

async function idle ({ connection, options }) {
  const stream = await open(connection, ECHO)
  const one = { stream, reader: new Reader(stream) }
  await roundTrip(one, 'before')
  await sleep(options.idle * 1000)
  await roundTrip(one, 'after')
  return `alive after ${options.idle} idle seconds`
}

function seconds (began) {
  return ((performance.now() - began) / 1000).toFixed(2)
}
