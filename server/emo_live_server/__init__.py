"""The deployable application around emo_live: HTTP, WHEP, WebSocket, the page."""
