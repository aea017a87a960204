// The handlers of the interop contract; ping and identify are libp2p's own services.

import { ECHO, RESET, Reader, STREAM_LIMITS, TOKEN_SIZE, endedByReset, write } from './node.js'

export async function serve (node) {
  const options = { ...STREAM_LIMITS, runOnLimitedConnection: true }
  await node.handle(ECHO, guarded(echo), options)
  await node.handle(RESET, guarded(reset), options)
}

function guarded (handler) {
  return async (stream) => {
    try {
      await handler(stream)
    } catch (error) {
      console.error(`${stream.protocol}: ${error.message}`)
      stream.abort(error)
    }
  }
}

async function echo (stream) {
  const reader = new Reader(stream)
  for (let part = await reader.next(); part != null; part = await reader.next()) {
    await write(stream, part)
  }
  await stream.close()
}

const outcomes = new Map() // how each watched stream ended, by the token its opener sent

// The opener sends one command byte and a token of 16 bytes: 'R' asks for a reset, 'W' (answered
// 'k') makes us note how the opener ends the stream, and 'Q' asks what was noted: 'r' a reset, 'e'
// an end of file, 'p' nothing yet.
async function reset (stream) {
  const reader = new Reader(stream)
  const request = await reader.exactly(1 + TOKEN_SIZE)
  const token = request.subarray(1).toString('hex')
  switch (String.fromCharCode(request[0])) {
    case 'W':
      outcomes.set(token, 'p')
      await write(stream, Buffer.from('k'))
      outcomes.set(token, await endedByReset(stream, reader) ? 'r' : 'e')
      await stream.close()
      break
    case 'Q':
      await write(stream, Buffer.from(outcomes.get(token) ?? 'p'))
      await stream.close()
      break
    default:
      stream.abort(new Error('reset as asked'))
  }
}
