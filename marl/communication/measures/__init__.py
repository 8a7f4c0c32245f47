"""What is measured of messages: information, influence, interventions, secrecy, cross-play."""
