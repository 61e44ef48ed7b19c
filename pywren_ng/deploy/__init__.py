"""What it takes to run on AWS Lambda: the zip that every function is made of."""
