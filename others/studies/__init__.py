"""What is run to learn something or to show it, not to use the models: python -m others.studies.NAME"""
