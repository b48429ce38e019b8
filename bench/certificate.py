"""A certificate for one server, and the authority that vouches for it: made for a run, trusted by nobody else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

SERVER_NAME: Final = "tokenwire.test"
"""Under a top-level domain that is never given away (RFC 6761 section 6.2)."""

ALSO_NAMED: Final = ("localhost", "127.0.0.1")
"""So that other clients can be pointed at the same server."""


class Certificate(NamedTuple):
    """Files in PEM, and the name that a client has to check."""

    ca_file: Path
    certificate: Path
    key: Path
    """For its owner alone (mode 0600)."""
    server_name: str


def make(folder: Path) -> Certificate:
    """Make an authority and a certificate (ECDSA, P-256) in ``folder``, in place of earlier ones. Raises OSError."""
    import trustme  # with what it imports 70 ms, which whoever wants no TLS is spared

    authority = trustme.CA()
    issued = authority.issue_cert(SERVER_NAME, *ALSO_NAMED)
    made = Certificate(folder / "ca.pem", folder / "certificate.pem", folder / "key.pem", SERVER_NAME)
    made.ca_file.write_bytes(authority.cert_pem.bytes())
    made.certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    made.key.unlink(missing_ok=True)
    with os.fdopen(os.open(made.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(issued.private_key_pem.bytes())
    return made
