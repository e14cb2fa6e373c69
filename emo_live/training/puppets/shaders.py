"""The two programs of the renderer: one paints colours, one writes where in the portrait each pixel comes from."""

from __future__ import annotations

VERTEX = """#version 330
in vec3 position;
in vec2 source;  // share of the portrait, y down
in vec4 colour;
out vec2 at;
out vec4 tint;
void main() {
    at = source;
    tint = colour;
    gl_Position = vec4(position, 1.0);
}
"""

_INPUTS = """#version 330
in vec2 at;
in vec4 tint;          // skin: its opacity in w; inside of the mouth: its colour, and 1 in w where own teeth may show
out vec4 pixel;
uniform sampler2D portrait;  // alpha: own teeth
uniform bool inside;         // what is drawn is the inside of the mouth
uniform float light;         // 0..1, falling through the lips
"""

PAINT = (
    _INPUTS
    + """
uniform vec2 middle, half_width;  // of the mouth, px of the canvas
void main() {
    vec4 photo = texture(portrait, at);
    if (!inside) {
        pixel = vec4(photo.rgb, tint.w);
        return;
    }
    float aside = abs(dot(gl_FragCoord.xy - middle, half_width)) / dot(half_width, half_width);  // 1 at the corners
    float shade = (1.0 - 0.75 * smoothstep(0.5, 1.05, aside)) * (0.3 + 0.7 * light);
    pixel = vec4(mix(tint.rgb * shade, photo.rgb, photo.a * tint.w * light), 1.0);
}
"""
)

# Sources are written times their share of the pixel, so that blending mixes them as it mixes colours.
TRACE = (
    _INPUTS
    + """
void main() {
    if (inside) {
        float own = texture(portrait, at).a * tint.w * light;
        pixel = vec4(at * own, own, 1.0);
    } else {
        pixel = vec4(at, 1.0, tint.w);
    }
}
"""
)
