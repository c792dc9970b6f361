"""The operations Mamba-2 is made of: a public function and a backend table each, documents never mixed."""
