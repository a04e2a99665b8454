"""Describes the trainers as methods: their papers, where the task enters the network, and their cost, all computed."""
