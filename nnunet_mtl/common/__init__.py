"""What every room uses: errors, the wording of messages, files written so that nobody reads a part of them."""
