"""Word lists of everyday notes. Invented words join them, so that copying never learns a list."""

from __future__ import annotations

from functools import cache

__all__ = ["words"]

_LISTS = {
    "thing": """key passport umbrella ladder bicycle bike suitcase backpack wallet jacket coat scarf
        guitar violin piano drill hammer saw toolbox tent torch battery charger cable kettle
        toaster fridge oven freezer sofa table chair bed carpet curtain mirror clock vase
        pan pot knife spoon plate cup bottle basket bag box parcel package letter book
        notebook diary photo album map ticket receipt invoice contract form folder file
        report poster painting camera tripod phone tablet laptop keyboard mouse monitor
        printer scanner projector router speaker radio headphones remote helmet rope net
        kite sledge skateboard scooter tyre pump engine car van lorry trailer boat canoe
        tank barrel bucket hose rake shovel wheelbarrow lawnmower fence gate door window
        shed lamp candle heater boiler fan filter fuse lock safe medal trophy flag doll
        puzzle toy ball racket whistle drum flute sweater dress shirt shoe boot glove hat
        ring necklace watch glasses medicine ointment bandage blanket pillow towel soap
        brush iron vacuum washing_machine dishwasher microwave sewing_machine spare_tyre
        pressure_cooker garden_hose fishing_rod coffee_machine sleeping_bag hard_disk
        memory_stick bread_knife winter_coat rain_jacket tax_form birth_certificate
        driving_licence loyalty_card""",
    "event": """meeting concert lesson course class exam lecture workshop rehearsal party wedding
        dinner lunch breakfast barbecue match game race tournament festival fair market sale
        auction exhibition tour trip excursion hike show play film opera reading interview
        appointment check-up operation inspection delivery ceremony service parade election
        conference seminar webinar call briefing training yoga_class choir_practice
        swimming_lesson parents'_evening school_trip book_club board_meeting bake_sale
        fire_drill flea_market quiz_night city_tour dress_rehearsal final semi-final
        opening_ceremony house_viewing job_interview break""",
    "vehicle": "train bus ferry plane flight tram coach boat shuttle night_train express ship",
    "shop": """bakery library pool gym museum pharmacy bank post_office supermarket butcher cafe
        restaurant bar cinema theatre zoo market clinic surgery school kindergarten office
        shop kiosk garage workshop laundry hotel hostel campsite gallery sauna tennis_court
        skating_rink garden_centre town_hall ticket_office hair_salon bookshop toy_shop
        petrol_station canteen nursery recycling_centre sports_hall climbing_hall reception
        archive shelter""",
    "relative": """sister brother mother father mum dad aunt uncle cousin grandmother grandfather
        grandma grandpa daughter son niece nephew wife husband partner neighbour friend
        flatmate colleague boss landlord landlady""",
    "job": """teacher nurse doctor lawyer baker butcher carpenter plumber electrician gardener
        driver pilot farmer painter writer journalist photographer musician singer actor
        dancer chef waiter cleaner engineer programmer architect librarian secretary
        accountant banker judge soldier sailor fisherman tailor hairdresser optician
        pharmacist vet biologist chemist physicist translator tour_guide lifeguard postman
        firefighter police_officer bus_driver shop_assistant social_worker civil_servant
        watchmaker roofer glazier beekeeper""",
    "role": """captain manager director owner author president mayor teacher doctor dentist vet
        tutor trainer coach conductor pilot driver cook gardener caretaker editor leader
        guide chairman chairwoman treasurer secretary supervisor architect referee lawyer
        accountant babysitter cleaner landlord plumber electrician optician hairdresser
        contact agent witness winner inventor founder head_teacher class_teacher team_leader
        project_manager goalkeeper best_man godmother tax_adviser sponsor host singer
        drummer designer translator""",
    "animal": """dog cat rabbit hamster parrot horse pony cow goat sheep pig donkey goldfish turtle
        tortoise snake lizard canary budgie hen duck goose guinea_pig ferret mouse rat
        spider frog owl""",
    "food": """bread milk butter cheese eggs flour sugar salt pepper rice pasta noodles potatoes
        carrots onions tomatoes cucumbers lettuce spinach beans peas lentils mushrooms
        apples pears bananas oranges lemons grapes cherries plums strawberries nuts almonds
        raisins honey jam yoghurt cream juice tea coffee water wine beer oil vinegar garlic
        ginger basil parsley chocolate biscuits cake crisps olives tofu ham sausages bacon
        chicken beef lamb salmon tuna prawns soup stew curry pizza pancakes salad sandwiches
        dumplings pie oats cinnamon yeast""",
    "goods": """batteries candles matches nails screws paint soap shampoo toothpaste napkins plates
        cups stamps envelopes pens pencils glue tape string scissors sponges towels socks
        gloves flowers bulbs seeds soil firewood charcoal gas pillows chairs tables tents
        maps tickets ribbons balloons bin_bags light_bulbs paper_cups cat_food dish_soap
        baking_paper""",
    "activity": """chess tennis football basketball volleyball hockey badminton golf rugby cricket
        swimming running cycling skiing sailing climbing dancing painting knitting sewing
        cooking baking gardening fishing reading singing yoga judo karate photography
        pottery astronomy the_guitar the_piano the_violin the_flute the_drums the_trumpet
        the_cello""",
    "colour": """red blue green yellow orange purple pink brown black white grey beige violet
        turquoise silver golden crimson navy_blue dark_green light_blue dark_red pale_yellow
        off-white cream bright_orange olive_green""",
    "material": """wood oak pine glass steel iron brass copper silver gold plastic paper cardboard
        leather wool cotton silk linen stone marble brick concrete clay rubber wax felt
        bamboo aluminium ceramic cork straw velvet denim""",
    "language": """English French German Spanish Italian Portuguese Dutch Danish Swedish Norwegian
        Polish Czech Greek Turkish Arabic Hebrew Hindi Chinese Japanese Korean Russian
        Ukrainian Hungarian Latin Welsh Irish Swahili""",
    "city": """London Paris Berlin Madrid Rome Vienna Lisbon Dublin Oslo Warsaw Prague Athens
        Zurich Geneva Milan Naples Turin Venice Munich Hamburg Cologne Bremen Dresden
        Leipzig Bonn Antwerp Brussels Bruges Rotterdam Utrecht Lille Lyon Nice Bordeaux
        Nantes Toulouse Seville Valencia Bilbao Porto Bristol Leeds Cardiff Glasgow Oxford
        Bath Cork Galway Malmo Uppsala Aarhus Helsinki Turku Riga Tallinn Vilnius Krakow
        Budapest Zagreb Split Sofia Izmir Cairo Tunis Nairobi Lagos Accra Mumbai Delhi Kyoto
        Osaka Seoul Hanoi Sydney Perth Auckland Toronto Montreal Boston Chicago Denver
        Austin Seattle Lima Quito Bogota Santiago Havana""",
    "container": """drawer box cabinet cupboard shelf basket bag suitcase safe chest wardrobe desk
        bucket jar tin folder locker fridge freezer car boot glove_compartment toolbox shed
        garage cellar attic basement kitchen bathroom bedroom hall living_room dining_room
        office pantry garden laundry_room study guest_room storeroom staircase corridor
        workshop greenhouse barn lobby yard""",
    "surface": """table desk shelf sofa bed chair windowsill piano fridge wardrobe floor roof
        balcony terrace stairs carpet wall hook bench counter mantelpiece doormat ladder""",
    "spot": """door stove sofa bed stairs sink mirror curtain fridge clock stone flowerpot hedge
        fence shed church station bank bridge fountain lift entrance window mailbox printer
        tree school statue kiosk doormat bookcase""",
    "adjective": """old new big small red blue green yellow white black brown grey wooden metal
        glass plastic round square heavy light broken spare second first last other left right
        upper lower front back main inner outer long short tall narrow wide cheap expensive
        warm cold wet dry clean dirty dark bright quiet loud soft hard sharp blunt striped
        plain electric folding summer winter spring autumn local annual weekly monthly
        yearly private public early late extra final free full empty lost rusty shiny torn
        thick thin leather silver golden""",
    "attribute": """password code PIN number name address phone_number telephone_number email
        email_address website price cost weight height length width depth size age colour
        title date time deadline budget salary rent capacity speed temperature distance
        duration score result grade rank motto slogan theme topic subject purpose reason
        brand model version type shape smell taste flavour nickname surname username
        user_name login access_code door_code gate_code alarm_code entry_code room_number
        seat_number gate platform track extension serial_number order_number booking_number
        booking_code reference reference_number invoice_number customer_number
        membership_number account_number ticket_number tracking_number licence_plate
        licence_number postcode zip_code meter_reading limit discount fee deposit fine tip
        balance wifi_password network_name combination secret_word code_word
        security_question favourite_colour favourite_food favourite_book favourite_film
        favourite_song favourite_animal favourite_drink blood_type star_sign shoe_size
        dress_size date_of_birth birthday birthplace nationality religion profession hobby
        diet diagnosis dose breed start_date end_date opening_time closing_time
        departure_time arrival_time check-in_time checkout_time meeting_point destination
        origin capital currency language flag anthem population area climate internet_speed
        screen_size paper_format file_format file_name folder_name branch_name port
        IP_address host_name server_name database_name API_key token channel frequency
        voltage power page_number chapter edition publisher genre ISBN main_ingredient
        side_dish dessert wifi_name guest_code opening_hours office_hours emergency_number
        parking_space flat_number house_number floor wing exit key_number locker_number
        shelf_mark""",
    "month": """January February March April May June July August September October November
        December""",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "number": """two three four five six seven eight nine ten eleven twelve thirteen fifteen twenty
        thirty""",
    "pupil": """pupils students guests rooms seats chairs windows doors pages chapters floors shops
        trees apples bottles boxes books beds tables lamps members players children adults
        tickets stops stations islands bridges computers printers cars bikes houses flats
        villages lakes churches buttons drawers keys wheels strings pieces cards coins
        stamps slides questions""",
    "reason": """a_flat_tyre a_power_cut a_strike the_rain the_snow a_storm a_leak a_paper_jam
        a_burst_pipe a_public_holiday an_illness a_broken_fuse a_lost_key heavy_traffic
        a_signal_failure bad_weather building_work a_cold a_mistake the_heat the_fog
        too_much_noise a_virus a_dead_battery a_blocked_drain""",
    "street": """Mill Church Station Park Garden School Bridge River Hill Forest Lake Castle Market
        Queen King Rose Oak Elm Harbour Dock High North West Orchard Chapel Canal Meadow""",
    "title": "Mr. Mrs. Ms. Miss Dr. Professor Uncle Aunt Sir Captain",
    "trait": """allergic_to afraid_of good_at interested_in married_to engaged_to responsible_for
        related_to proud_of tired_of crazy_about famous_for bad_at in_charge_of keen_on
        in_love_with angry_with waiting_for used_to addicted_to""",
}


@cache
def words(kind: str) -> tuple[str, ...]:
    """The words of one list; an underscore in a list is a space.

    Raises KeyError for a kind that is not in `_LISTS`.
    """
    return tuple(word.replace("_", " ") for word in _LISTS[kind].split())
