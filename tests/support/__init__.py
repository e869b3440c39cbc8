"""What tests share: fake hosts, fake WebUIs, factories, and ways to tell whether a model was touched."""
