"""What a request costs in commands, round trips and store calls: numbers that do not drift with the machine."""
