"""From sound features to the backbone: projection to tokens, audio-attention layers, the truncated whisper encoder.

Audio-attention reads the tokens of its frame (its own sound and m neighbours on each side, EMO 3.2) and adds the result
through three masks (whole picture, face, lips), as Hallo does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.config import AudioAttentionConfig, AudioProjectionConfig, WhisperConfig
from emo_live.models.attention import Attention, FeedForward

MASKS = ("full", "face", "lip")


class AudioProjection(nn.Module):
    """(B, T, frames, blocks, width) features -> (B, T, tokens, token_width)."""

    def __init__(self, config: AudioProjectionConfig):
        super().__init__()
        self.config = config
        self.proj1 = nn.Linear(config.frames * config.blocks * config.width, config.hidden)
        self.proj2 = nn.Linear(config.hidden, config.hidden)
        self.proj3 = nn.Linear(config.hidden, config.tokens * config.token_width)
        self.norm = nn.LayerNorm(config.token_width)

    def forward(self, features: Tensor) -> Tensor:
        hidden = torch.relu(self.proj1(features.flatten(2)))
        hidden = torch.relu(self.proj2(hidden))
        tokens = self.proj3(hidden).unflatten(-1, (self.config.tokens, self.config.token_width))
        out: Tensor = self.norm(tokens)
        return out


class AudioBlock(nn.Module):
    def __init__(self, width: int, heads: int, config: AudioAttentionConfig, factor: int):
        super().__init__()
        if config.self_attention:
            self.attn1 = Attention(width, heads)
            self.norm1 = nn.LayerNorm(width)
        self.readers = 1 if config.shared else len(MASKS)
        for reader in range(self.readers):
            setattr(self, f"attn2_{reader}", Attention(width, heads, config.width))
        self.norm2 = nn.LayerNorm(width)
        for mask in MASKS:
            layer = nn.Conv2d(width, width, 1)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
            setattr(self, f"zero_conv_{mask}", layer)
        self.ff = FeedForward(width, factor)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x: Tensor, audio: Tensor, masks: tuple[Tensor, ...], scales: tuple[float, ...]) -> Tensor:
        """x: (B, h w, C); audio: (B, L, D); masks: three (B, h w)."""
        if hasattr(self, "attn1"):
            x = self.attn1(self.norm1(x)) + x
        query = self.norm2(x)
        heard = [getattr(self, f"attn2_{reader}")(query, audio) for reader in range(self.readers)]
        total = x
        for i, (name, mask, scale) in enumerate(zip(MASKS, masks, scales, strict=True)):
            layer: nn.Conv2d = getattr(self, f"zero_conv_{name}")
            masked = heard[i % self.readers] * mask.unsqueeze(-1)
            total = total + F.linear(masked, layer.weight.flatten(1), layer.bias) * scale
        out: Tensor = self.ff(self.norm3(total)) + total
        return out


class AudioModule(nn.Module):
    """Audio-attention layer on ((B T), C, h, w); its inner width may differ from C, as in published Hallo."""

    def __init__(self, width: int, inner: int, heads: int, groups: int, config: AudioAttentionConfig, factor: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, inner, 1)
        self.transformer_blocks = nn.ModuleList([AudioBlock(inner, heads, config, factor)])
        self.proj_out = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor, audio: Tensor, masks: tuple[Tensor, ...], scales: tuple[float, ...]) -> Tensor:
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, audio, masks, scales)
        out: Tensor = x + self.proj_out(tokens.transpose(1, 2).unflatten(2, x.shape[-2:]))
        return out


class WhisperBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attn_ln, self.mlp_ln = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)
        self.mlp = nn.ModuleList([nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        from emo_live.models.attention import attention

        y = self.attn_ln(x)
        x = x + self.out(attention(self.query(y), self.key(y), self.value(y), self.heads))
        y = self.mlp_ln(x)
        for layer in self.mlp:
            y = layer(y)
        return x + y


class WhisperEncoder(nn.Module):
    """The first `layers` blocks of whisper's encoder on a short, fixed context: (B, mels, 2 L) log-mel -> (B, L, width)."""

    positional_embedding: Tensor

    def __init__(self, config: WhisperConfig):
        super().__init__()
        self.conv1 = nn.Conv1d(config.mels, config.width, 3, padding=1)
        self.conv2 = nn.Conv1d(config.width, config.width, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", torch.zeros(config.tokens, config.width))
        self.blocks = nn.ModuleList(WhisperBlock(config.width, config.heads) for _ in range(config.layers))

    def forward(self, mel: Tensor) -> Tensor:
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        x = x + self.positional_embedding
        for block in self.blocks:
            x = block(x)
        return x

    def load_published(self, state: dict[str, Tensor]) -> None:
        """Takes the encoder weights of an OpenAI whisper checkpoint (`encoder.` keys) that fit this truncation."""
        own = self.state_dict()
        mapped: dict[str, Tensor] = {}
        for key, value in state.items():
            name = key.removeprefix("encoder.").replace(".attn.", ".")
            if key.startswith("encoder.") and name in own:
                mapped[name] = value[: own[name].shape[0]].float() if name == "positional_embedding" else value.float()
        self.load_state_dict(mapped)
