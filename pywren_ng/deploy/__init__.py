"""What it takes to run on AWS Lambda: the zip, its layers, the stack, policies; set up, looked at, torn down."""
