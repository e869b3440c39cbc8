"""LoRA layers over a frozen model, LoRA files, and the tools that change finished LoRAs."""
