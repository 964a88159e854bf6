"""Sign-in of members at a provider of OpenID Connect, with the extra `sign-in`."""
