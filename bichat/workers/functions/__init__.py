"""What models may call, a file each: a function here, with a decorator, is offered. No list has it."""
