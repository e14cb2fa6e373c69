"""EMO in torch: one implementation of its parts, built from the frozen configs of `emo_live.config`."""
