"""Random payloads: mostly content chunks in one form, so that shortcuts are taken, and everything that breaks them."""

from __future__ import annotations

import json

from hypothesis import strategies as st
from wire_samples import DONE, ROLE, STOP, USAGE, chunk

TEXTS = st.one_of(
    st.sampled_from(
        ["Hello", " world", "\n", '"', "\\", "é", "😀", "👩‍👩‍👧", "中文", "\t\0", "\x1f", "\u2028", "a" * 300]
    ),
    st.text(max_size=6),
)
CONTENT = TEXTS.map(lambda text: chunk({"content": text}))
PAYLOADS = st.one_of(
    CONTENT,
    CONTENT,
    CONTENT,
    TEXTS.map(lambda text: chunk({"content": text}, ascii_only=False)),
    st.one_of(
        TEXTS.map(lambda text: chunk({"content": text}, index=1)),
        TEXTS.map(lambda text: chunk({"role": "assistant", "content": text}, "stop")),
        TEXTS.map(lambda text: json.dumps(json.loads(chunk({"content": text}))).encode()),
        TEXTS.map(lambda text: chunk({"content": text})[:-1] + b',"content":"x"}'),
        st.sampled_from(
            [
                ROLE,
                STOP,
                USAGE,
                DONE,
                b"",
                b"{}",
                b"[]",
                b"{",
                b'{"choices":3}',
                b'{"error":{"message":"m","code":"c"}}',
            ]
        ),
        # Near misses of a content chunk: an open quote, a bare control character, a cut, something behind it.
        st.sampled_from([b'a"b', b"a\\", b"\\x", b"a\x01b"]).map(
            lambda raw: chunk({"content": "?"}).replace(b'"?"', b'"' + raw + b'"')
        ),
        CONTENT.map(lambda payload: payload[:-1]),
        CONTENT.map(lambda payload: payload + b" "),
        CONTENT.map(lambda payload: payload + payload),
    ),
)
CUTS = st.one_of(st.just(set()), st.sets(st.integers(0, 6000), max_size=30), st.just(set(range(6000))))
