"""What child processes need that may write only short files."""

import os

# Python keeps of bytecode what it could write, and the next program that reads it ends with "marshal data too short".
ENVIRONMENT = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
