"""The health check of a container: `python -m mlplatform.serving.alive`. Whether its server answers."""

from __future__ import annotations

import http.client
import ssl
import sys
from functools import partial

PORT = 8080
PATIENCE_SECONDS = 2.0


def main(port: int = PORT) -> int:
    """0 when it does."""
    # Asked from inside, on the loopback address: whose certificate it is does not matter.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    secure = partial(http.client.HTTPSConnection, context=context)
    for connect in (http.client.HTTPConnection, secure):
        connection = connect("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", "/ping")
            return int(connection.getresponse().status != 200)
        except (OSError, http.client.HTTPException):
            continue
        finally:
            connection.close()
    return 1


if __name__ == "__main__":
    sys.exit(main())
