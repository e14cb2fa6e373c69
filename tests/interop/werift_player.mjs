// A WHEP player of werift (WebRTC in TypeScript): prints what arrived in some seconds as one line of JSON.
// node werift_player.mjs FOLDER_OF_PACKAGES URL SECONDS CODEC
import { createRequire } from "node:module";

const [, , packages, url, seconds, codec] = process.argv;
const require = createRequire(`${packages}/`);
const { RTCPeerConnection, RTCRtpCodecParameters } = require("werift");

const video = {
  H264: new RTCRtpCodecParameters({
    mimeType: "video/H264", clockRate: 90000, payloadType: 102,
    rtcpFeedback: [{ type: "nack" }, { type: "nack", parameter: "pli" }, { type: "goog-remb" }],
    parameters: "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
  }),
  VP8: new RTCRtpCodecParameters({ mimeType: "video/VP8", clockRate: 90000, payloadType: 96 }),
}[codec];
const audio = new RTCRtpCodecParameters({ mimeType: "audio/opus", clockRate: 48000, channels: 2, payloadType: 111 });

const connection = new RTCPeerConnection({ codecs: { audio: [audio], video: [video] }, bundlePolicy: "max-bundle" });
const seen = { audio: 0, video: 0, states: [] };
connection.connectionStateChange.subscribe((state) => seen.states.push(state));
connection.onTrack.subscribe((track) => track.onReceiveRtp.subscribe(() => (seen[track.kind] += 1)));
connection.addTransceiver("audio", { direction: "recvonly" });
connection.addTransceiver("video", { direction: "recvonly" });

await connection.setLocalDescription(await connection.createOffer());
const headers = { "Content-Type": "application/sdp" };
const reply = await fetch(url, { method: "POST", headers, body: connection.localDescription.sdp });
if (reply.status !== 201) throw new Error(`${reply.status}: ${await reply.text()}`);
await connection.setRemoteDescription({ type: "answer", sdp: await reply.text() });
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
for (let waited = 0; !seen.video && waited < 15000; waited += 20) await pause(20);
await pause(Number(seconds) * 1000);
const gone = await fetch(new URL(reply.headers.get("location"), url), { method: "DELETE" });
await connection.close();
console.log(JSON.stringify({ ...seen, deleted: gone.status }));
process.exit(0);
