// A self-signed client certificate, made in the browser: the private key never leaves it.
// DER is written by hand: each value is a tag, a length and its content (X.690).

const concat = (...parts) => {
  const all = parts.map((p) => new Uint8Array(p));
  const out = new Uint8Array(all.reduce((sum, p) => sum + p.length, 0));
  let at = 0;
  for (const p of all) {
    out.set(p, at);
    at += p.length;
  }
  return out;
};

const der = (tag, ...content) => {
  const body = concat(...content);
  const n = body.length;
  const length = n < 0x80 ? [n] : n < 0x100 ? [0x81, n] : [0x82, n >> 8, n & 0xff];
  return concat([tag], length, body);
};

const sequence = (...items) => der(0x30, ...items);
const set = (...items) => der(0x31, ...items);
const octets = (bytes) => der(0x04, bytes);
const bits = (bytes, unused = 0) => der(0x03, [unused], bytes);
const yes = der(0x01, [0xff]);

// integer is a number without sign: no superfluous zeros, and a zero before a high bit.
const integer = (bytes) => {
  let from = 0;
  while (from < bytes.length - 1 && bytes[from] === 0) from++;
  const rest = bytes.slice(from);
  return der(0x02, rest[0] & 0x80 ? [0] : [], rest);
};

const oid = (text) => {
  const [first, second, ...rest] = text.split(".").map(Number);
  const out = [first * 40 + second];
  for (let n of rest) {
    const septets = [n & 0x7f];
    while ((n = Math.floor(n / 128)) > 0) septets.unshift((n & 0x7f) | 0x80);
    out.push(...septets);
  }
  return der(0x06, out);
};

const utf8 = (text) => der(0x0c, new TextEncoder().encode(text));

// time is UTCTime up to 2049, and GeneralizedTime after (RFC 5280).
const time = (date) => {
  const digits = date.toISOString().replace(/[-:T]/g, "").slice(0, 14) + "Z";
  const ascii = (s) => new TextEncoder().encode(s);
  return date.getUTCFullYear() < 2050 ? der(0x17, ascii(digits.slice(2))) : der(0x18, ascii(digits));
};

const name = (organization, common) =>
  sequence(set(sequence(oid("2.5.4.10"), utf8(organization))), set(sequence(oid("2.5.4.3"), utf8(common))));

const extension = (id, critical, value) => sequence(oid(id), critical ? yes : [], octets(value));

const pem = (label, bytes) => {
  let text = "";
  for (const b of new Uint8Array(bytes)) text += String.fromCharCode(b);
  const lines = btoa(text).match(/.{1,64}/g).join("\n");
  return `-----BEGIN ${label}-----\n${lines}\n-----END ${label}-----\n`;
};

// possible tells whether this browser makes keys here: only over HTTPS, or on localhost.
export const possible = () => Boolean(globalThis.crypto?.subtle);

// makeCertificate gives {certificate, key}, both PEM: ECDSA with P-384, ten years, for clients.
export async function makeCertificate(now = new Date()) {
  const pair = await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-384" }, true, ["sign", "verify"]);
  const spki = await crypto.subtle.exportKey("spki", pair.publicKey);
  const pkcs8 = await crypto.subtle.exportKey("pkcs8", pair.privateKey);
  const algorithm = sequence(oid("1.2.840.10045.4.3.3")); // ecdsa-with-SHA384
  const serial = crypto.getRandomValues(new Uint8Array(16));
  serial[0] = (serial[0] & 0x7f) | 0x40;
  const begin = new Date(now.getTime() - 3600_000); // clocks differ
  const end = new Date(now);
  end.setUTCFullYear(end.getUTCFullYear() + 10);
  const who = name("Holdfast", "Holdfast client certificate");
  const body = sequence(
    der(0xa0, integer([2])), // version 3
    integer(serial),
    algorithm,
    who,
    sequence(time(begin), time(end)),
    who,
    new Uint8Array(spki),
    der(0xa3, sequence(
      extension("2.5.29.15", true, bits([0x80], 7)), // key usage: digitalSignature
      extension("2.5.29.37", false, sequence(oid("1.3.6.1.5.5.7.3.2"))), // extended: clientAuth
      extension("2.5.29.19", true, sequence()), // no authority
    )),
  );
  const raw = new Uint8Array(await crypto.subtle.sign({ name: "ECDSA", hash: "SHA-384" }, pair.privateKey, body));
  const half = raw.length / 2;
  const signature = sequence(integer(raw.slice(0, half)), integer(raw.slice(half)));
  return {
    certificate: pem("CERTIFICATE", sequence(body, algorithm, bits(signature))),
    key: pem("PRIVATE KEY", pkcs8),
  };
}
