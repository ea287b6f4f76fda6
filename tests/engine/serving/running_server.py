"""A server that runs in a thread of the tests, and raw requests to it."""

from __future__ import annotations

import base64
import http.client
import io
import json
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from rqchat.engine.serving.http_server import HttpServer
from rqchat.engine.session import ChatSession

__all__ = ["CONTEXT_TOKENS", "RunningServer", "picture_url"]

CONTEXT_TOKENS = 16_384


@dataclass
class RunningServer:
    port: int
    http: HttpServer
    session: ChatSession

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def send(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON of what comes back."""
        connection = self.connect()
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


def picture_url() -> str:
    """A red circle on white."""
    image = Image.new("RGB", (192, 192), "white")
    ImageDraw.Draw(image).ellipse((40, 40, 150, 150), fill="red")
    data = io.BytesIO()
    image.save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
