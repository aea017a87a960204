// js-libp2p calls Promise.withResolvers(), which Node 20 does not have yet.
Promise.withResolvers ??= function withResolvers () {
  const parts = {}
  parts.promise = new this((resolve, reject) => Object.assign(parts, { resolve, reject }))
  return parts
}
