"""A stand-in for Stripe Connect: accounts, balances, transfers, reversals, payouts, on loopback.

It speaks Stripe's wire protocol to the real client library, keeps idempotency keys as Stripe
documents them (https://docs.stripe.com/api/idempotent_requests) and fails on demand.
"""
