// @ts-check
/** The pickers of microphone and speaker. Browsers tell the names only after the microphone was allowed once. */

/** @param {HTMLVideoElement} video */
export const canChooseSpeaker = (video) => "setSinkId" in video;

export class Devices {
  /** @param {HTMLSelectElement} microphone @param {HTMLSelectElement} speaker */
  constructor(microphone, speaker) {
    this.microphone = microphone;
    this.speaker = speaker;
    navigator.mediaDevices?.addEventListener("devicechange", () => void this.refresh());
  }

  async refresh() {
    const devices = (await navigator.mediaDevices?.enumerateDevices().catch(() => [])) ?? [];
    fill(this.microphone, devices.filter(({ kind }) => kind === "audioinput"));
    fill(this.speaker, devices.filter(({ kind }) => kind === "audiooutput"));
  }
}

/** @param {HTMLSelectElement} select @param {MediaDeviceInfo[]} devices */
function fill(select, devices) {
  const chosen = select.value;
  const known = devices.filter(({ deviceId, label }) => deviceId && label && deviceId !== "default");
  select.replaceChildren(new Option("System default", ""), ...known.map(({ label, deviceId }) => new Option(label, deviceId)));
  if (known.some(({ deviceId }) => deviceId === chosen)) select.value = chosen;
}
