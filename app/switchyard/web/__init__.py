"""What every entrance over HTTP shares: who may call, errors as answers, health."""
