"""The server: OpenAI's, FunASR's and other protocols in front of one TranscriptionService.

In: HTTP requests and WebSocket messages. Out: answers in the form that each protocol's clients parse. Read app.py first
(which routes there are), then recognizer.py (what they all call).
"""
