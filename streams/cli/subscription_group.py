"""`distributary subscriptions`: its commands, put together from their files. This file holds no command."""

from __future__ import annotations

from streams.cli import subscription_create, subscription_secrets, subscriptions, verify

app = subscriptions.app
app.command("create")(subscription_create.create)
app.command("rotate-secret")(subscription_secrets.rotate_secret)
app.command("reencrypt")(subscription_secrets.reencrypt)
app.command("verify")(verify.verify)
