"""Word lists of the document world. Words of real prose join them, so that nothing is closed."""

from __future__ import annotations

__all__ = ["ADJECTIVES", "ATTRIBUTES", "FIRST_NAMES", "NOUNS", "PLACES", "ROLES", "SURNAMES"]
ATTRIBUTES = tuple(
    " ".join(
        """
    access code, password, pin, serial number, phone number, room number, account number,
    code word, secret word, door code, safe combination, extension, locker number, order number,
    ticket number, postal code, price, budget, height, weight, length, depth, width, temperature,
    speed, distance, age, size, colour, color, name, nickname, title, motto, capital, address,
    location, currency, flag, symbol, mascot, deadline, opening time, closing time, date,
    launch date, departure time, arrival time, release year, population, capacity,
    number of seats, number of rooms, number of pages, score, grade, version, model number,
    licence plate, flight number, platform, track, gate, channel, frequency, voltage,
    favourite fruit, favorite food, favourite colour, main ingredient, flavour, material, shape,
    purpose, cause, result, winner, author, origin, destination, topic, key, token, user name,
    host name, port
    """.split()
    ).split(", ")
)
ROLES = tuple(
    """
    captain manager director owner narrator author inventor founder president mayor teacher
    doctor engineer pilot driver cook gardener keeper editor librarian secretary leader guide
    chief judge chairman treasurer supervisor architect painter singer builder guard nurse
    farmer baker winner hero boss maintainer operator king queen
    """.split()
)
ADJECTIVES = tuple(
    """
    north south east west red blue green yellow white black silver golden old new big small
    upper lower first second third last main inner outer left right front back great little
    central royal public private secret hidden quiet dark bright cold warm early late long short
    deep high low northern southern eastern western spare broken lost local national iron wooden
    stone glass crystal winter summer spring autumn morning evening midnight
    """.split()
)
NOUNS = tuple(
    """
    gate door tower bridge garden station library museum school office house castle ship boat
    train bus engine car plane rocket satellite server database router printer computer laptop
    camera phone radio lamp clock box chest safe vault cellar kitchen attic garage barn mill
    farm forest river lake island mountain valley village town city harbour port market shop
    bakery hotel inn theatre cinema church temple palace hospital clinic laboratory factory mine
    well fountain statue park square street road tunnel cave beach lighthouse observatory
    telescope archive warehouse depot airport hangar stadium pool gym studio gallery workshop
    project team company club band festival conference meeting expedition mission experiment
    report book letter map painting song recipe machine robot pump turbine generator reactor
    sensor valve elevator committee department branch account cabin camp chapel cottage dam desk
    drawer cabinet fort greenhouse hall hill room lab orchard pier plant quarry ranch reservoir
    sample device unit vessel wagon windmill zoo aquarium backup cluster network parcel package
    shipment order
    """.split()
)
FIRST_NAMES = tuple(
    """
    Anna Ben Clara David Elena Frank Grace Henry Iris Jack Kate Leo Maria Nina Oscar Paul Rosa
    Sam Tom Uma Victor Wendy Xavier Yara Zoe Ahmed Bianca Carlos Diana Emil Fatima George Hanna
    Ivan Julia Kofi Lena Marco Nadia Omar Petra Quentin Rachel Stefan Tara Ursula Vera Walter
    Yusuf Alice Bob Ada Alan Edith Hugo Ingrid Jonas Karen Linus Mei Noah Olga Priya Ravi Sofia
    Theo
    """.split()
)
SURNAMES = tuple(
    """
    Smith Jones Marsh Lind Weber Rossi Novak Silva Tanaka Kim Patel Khan Okafor Mensah Larsen
    Berg Fischer Klein Moreau Dubois Garcia Lopez Ivanov Petrov Kowalski Horvath Nagy Stone
    Rivers Woods Hill Brook Field Carter Baker Mason Taylor Cooper Fletcher Turner Walker Young
    King Bell Frost Hale Quinn Reed Sharp Vance West York Abbott Barnes Chen Dunn Ellis Ford
    Grant
    """.split()
)
PLACES = tuple(
    " ".join(
        """
    kitchen, cellar, attic, garage, library, garden shed, top drawer, blue cabinet, old safe,
    back room, third floor, basement, north wing, main hall, post office, train station, harbour,
    old town, city centre, town hall, church tower, red box, wooden chest, second shelf,
    meeting room, front desk, server room, green house, white barn, market square, reading room,
    engine room
    """.split()
    ).split(", ")
)
