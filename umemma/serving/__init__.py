"""An HTTP server that answers predictions with a trained model.

`server` listens and stops, `guard` stands before every request (size, time, number, hosts),
`request_media` reads what a request holds, `answers` makes what it gets, and `app` joins them.
page.html is the page to try the model by hand.
"""
