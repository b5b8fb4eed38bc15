"""What needs packages of bench/requirements.txt, and runs in the interpreter that has them."""
