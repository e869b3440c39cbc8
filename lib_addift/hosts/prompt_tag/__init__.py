"""The `<lora:...>` tag of a prompt: its syntax, several LoRAs in one picture, and the tag inside a WebUI."""
