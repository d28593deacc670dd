"""The serverless side: Inngest. It knows how to deliver a run, not what is in it."""
