"""From raw recordings to training tokens: `mimo-codec corpus run`."""
