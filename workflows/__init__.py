"""The serverless side: Inngest. It knows how to carry a run, not what is in it."""
